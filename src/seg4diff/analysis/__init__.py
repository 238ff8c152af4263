"""Which block of a model grounds words, measured block by block: `python analyze.py`.

How it is built:

- A *scene* (`scene.py`) is a batch of images that a model reads: labelled images with noise added, or images that are being generated.
  Its `read` runs the model once for each noise level and hands out a *look*: one image, one block, one noise level, with queries, keys and
  values of that block. Looks are handed out block after block, so memory grows neither with the blocks nor with the images.
- A *study* (`study.py`) measures one thing, in a file of its own. A `Reader` sees the looks of the pass that all readers share. A study
  of the kind `OwnPasses` runs the model by itself on each scene: another prompt, an operator on maps, a perturbation. `catalogue.py`
  lists all studies.
- What a study has counted is held by metrics (`tallies.py`): sums, and values of each image, in tensors that are added over processes and
  saved. So several processes count every image once, and a stopped analysis goes on. Pictures go to disk at once (`album.py`).
- `Study.result` returns *findings*: a tidy table, and as evidence the values of each image, from which intervals can be drawn.
- `module.py` is the test loop of Lightning around it. `report.py` writes tables, evidence and analysis.json.
- The report is made of what lies in the folder, so it can be drawn again without the model. `stored.py` reads the folder, `plans.py` says
  which numbers stand in which figure, `figures.py` and `sheets.py` draw with the parts in `drawing.py`; `sections.py` and `showed.py` hold
  the words, `verdict.py` the finder's part, and `page.py` puts everything into report.html with the parts in `html.py`. `atlas.py` lays
  several folders side by side.
"""
