"""Look into the joint attention of a running model, block by block, and change it: `stream` and `edit`.

Everything that reads or perturbs attention stands on these two: maps, masses, norms, causal tests, guidance, training.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any

import torch
from torch import Tensor

from seg4diff.attention.joint import Joint
from seg4diff.backbones.base import AttentionSite, Backbone, SamplingStep
from seg4diff.backbones.hooks import Attend, change_arguments, change_output, handle_attention, see_arguments, uncompile
from seg4diff.backbones.layout import Layout


class Visit:
    """One block in one forward pass, at the moment when its attention is about to be computed.

    Attributes:
        block: index of the block.
        number: number of the forward pass since the context was opened, from 0.
        step: sampling step from 0 while the pipeline draws, in `Backbone.sample` or by itself; None for a pass of `predict_velocity`.
        prompted: rows of the batch that see the prompt. Classifier-free guidance also predicts without the prompt: the rows that do are
            not among these, and a pass that is all without the prompt has none.
        joint: queries, keys and values of all rows.
    """

    def __init__(
        self,
        *,
        block: int,
        number: int,
        step: int | None,
        prompted: slice,
        joint: Joint,
        layout: Layout,
        attend: Attend,
        compute: Callable[[], Tensor],
    ) -> None:
        self.block, self.number, self.step, self.prompted, self.joint = block, number, step, prompted, joint
        self._layout, self._attend, self._compute = layout, attend, compute

    @property
    def output(self) -> tuple[Tensor, Tensor]:
        """Output of the block's attention before its output projection: (B, heads, N, d) of the image, (B, heads, T, d) of the text.

        That of the text is empty where it does not attend. It is computed when it is first asked for; the block then goes on with this
        very tensor.
        """
        return self._layout.queries.split(self.whole_output)

    @cached_property
    def whole_output(self) -> Tensor:
        """As `output`, image and text together in the model's own order."""
        return self._compute()

    def attend(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """The model's own attention on other queries, keys and values of as many tokens: see `output`."""
        return self._layout.queries.split(self._attend(*joint.join(self._layout)))

    def together(self, image: Tensor, text: Tensor) -> Tensor:
        """An output of image and text as `whole_output` has it."""
        return self._layout.queries.join(image, text)


Consumer = Callable[[Visit], None]
AttentionEdit = Callable[[Visit], tuple[Tensor, Tensor]]
"""Takes a visit and returns what the block takes as its attention's output, of the image and of the text: see `Visit.output`.

`lambda visit: visit.output` is the identity, `lambda visit: visit.attend(changed)` attends with other queries, keys or values.
"""
StateEdit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(image tokens (B, N, width), text tokens (B, T, width)) that enter a block -> those that enter it instead, of the same shapes."""


class Reached(Exception):
    """Raised inside the transformer's forward once everything asked for has been seen; `stream` swallows it."""


class Passes:
    """Follows the forward passes of a transformer.

    Attributes:
        number: number of the present pass, from 0.
        layout: where its image and text tokens stand.
        step: its sampling step, see `Visit`.
        prompted: its rows that see the prompt, see `Visit`.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone, self.number, self.prompted = backbone, -1, slice(0, 0)
        self.layout = Layout(text=0, text_first=backbone.text_first)
        self._step: SamplingStep | None = None

    @property
    def step(self) -> int | None:
        return None if self._step is None else self._step.index

    def seen(self, arguments: dict[str, Any]) -> None:
        """A pass begins."""
        self.number += 1
        self.layout = self._backbone.layout(arguments)
        batch, before, self._step = len(arguments[self._backbone.tokens]), self._step, self._backbone.sampling_step()
        if self._step is not None and self._step.same_as(before):
            self.prompted = slice(0, 0)
        elif self._step is not None and self._step.both_halves:
            self.prompted = slice(0, batch // 2) if self._backbone.prompted_first else slice(batch // 2, batch)
        else:
            self.prompted = slice(0, batch)


@contextmanager
def stream(backbone: Backbone, blocks: Sequence[int], consume: Consumer, *, stop: bool = False) -> Iterator[None]:
    """Call `consume` as each of these blocks is reached, in every forward pass inside the context.

    Nothing is kept: memory does not grow with the number of blocks, unless the consumer keeps what it sees. Reading does not change a
    bit of what the model computes. Under gradient checkpointing a block runs again in the backward pass; it is visited once, and a
    consumer may then keep tensors (`capture` does) but must not compute with gradients.

    Args:
        backbone: the model; inside, call `predict_velocity` or `sample`.
        blocks: 0-based indices of joint-attention blocks.
        consume: called with each `Visit`.
        stop: leave a forward pass at its last block: later blocks, and that block's own attention where the consumer does not ask for
            it, are not computed, `predict_velocity` does not return, and the rest of the `with` body is skipped.

    Raises:
        UserError: a block does not exist.
    """
    visited, wanted = set[tuple[int, int]](), set(blocks)

    def visit(visit: Visit) -> Tensor:
        if (visit.number, visit.block) not in visited:
            visited.add((visit.number, visit.block))
            consume(visit)
            if stop and all((visit.number, block) in visited for block in wanted):
                raise Reached
        return visit.whole_output

    with ExitStack() as stack:
        _visit_blocks(stack, backbone, blocks, visit)
        with suppress(Reached):
            yield


@contextmanager
def edit(
    backbone: Backbone,
    blocks: Sequence[int],
    *,
    attention: AttentionEdit | None = None,
    states: StateEdit | None = None,
    skip: bool = False,
) -> Iterator[None]:
    """Change what these blocks do, in every forward pass inside the context; on exit, also after an exception, all is as before.

    Edits nest with each other and with `stream`: one that is opened later sees the attention first, and gets what those opened earlier
    make of it as the output. An edited block runs without `torch.compile` from then on. Under gradient checkpointing the context must
    stay open during the backward pass, which runs the blocks again.

    Args:
        backbone: the model; inside, call `predict_velocity`, `sample`, or the pipeline itself.
        blocks: 0-based indices of joint-attention blocks.
        attention: replaces the attention, see `AttentionEdit`.
        states: replaces the tokens that enter the block, see `StateEdit`.
        skip: leave the block out: its tokens leave it as they entered.

    Raises:
        UserError: a block does not exist.
    """
    with ExitStack() as stack:
        if attention is None:
            passes = follow_passes(stack, backbone)
        else:
            passes = _visit_blocks(stack, backbone, blocks, lambda visit: visit.together(*attention(visit)))
        for site in backbone.select_sites(blocks):
            uncompile(site.block)
            if states is not None:
                change = partial(_edit_states, states, passes, backbone.tokens)
                stack.enter_context(change_arguments(site.block, change))
            if skip:
                stack.enter_context(change_output(site.block, partial(_unchanged, backbone)))
        yield


def follow_passes(stack: ExitStack, backbone: Backbone) -> Passes:
    """Follow the passes of the transformer until the stack is closed."""
    passes = Passes(backbone)
    stack.enter_context(see_arguments(backbone.transformer, passes.seen))
    return passes


def _visit_blocks(stack: ExitStack, backbone: Backbone, blocks: Sequence[int], visit: Callable[[Visit], Tensor]) -> Passes:
    passes = follow_passes(stack, backbone)

    def handle(site: AttentionSite, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None, attend: Attend) -> Tensor:
        layout = passes.layout.of_block(mask)
        return visit(
            Visit(
                block=site.index,
                number=passes.number,
                step=passes.step,
                prompted=passes.prompted,
                joint=Joint.split(query, key, value, scale, layout, mask),
                layout=layout,
                attend=attend,
                compute=lambda: attend(query, key, value),
            )
        )

    for site in backbone.select_sites(blocks):
        uncompile(site.block)
        stack.enter_context(handle_attention(site.name, site.module, lambda *call, site=site: handle(site, *call)))
    return passes


def _edit_states(states: StateEdit, passes: Passes, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that differ; a single-stream block may get image and text as one sequence, in the argument of this name."""
    tokens, words = arguments[name], arguments.get("encoder_hidden_states")
    if words is None:
        layout = passes.layout.of_block(arguments.get("attention_mask"))
        return {name: layout.join(*states(*layout.split(tokens)))}
    image, words = states(tokens, words)
    return {name: image, "encoder_hidden_states": words}


def _unchanged(backbone: Backbone, arguments: dict[str, Any], output: Any) -> Any:
    """What a block would return if it did nothing: text and image, or both as one sequence; the last block of SD3 returns no text."""
    image = arguments[backbone.tokens]
    if isinstance(output, Tensor):
        return image
    text = None if output[backbone.text_returned] is None else arguments["encoder_hidden_states"]
    return (image, text) if backbone.text_returned else (text, image)


def visits(backbone: Backbone, blocks: Sequence[int], run: Callable[[], object]) -> Iterator[Visit]:
    """The visits of the passes inside `run` as a plain loop, without gradients; the model waits while the loop body runs.

    A loop that is left early leaves the pass too. `run` goes on in a thread of its own, since a forward pass cannot be suspended.

    Args:
        backbone: the model.
        blocks: see `stream`.
        run: calls the model, e.g. `lambda: backbone.predict_velocity(...)`.
    """
    handed: SimpleQueue[Visit | BaseException | None] = SimpleQueue()
    turn, left = Semaphore(0), Event()

    def hand(visit: Visit) -> None:
        handed.put(visit)
        turn.acquire()
        if left.is_set():
            raise Reached

    def work() -> None:
        try:
            with torch.no_grad(), stream(backbone, blocks, hand, stop=True):
                run()
            handed.put(None)
        except BaseException as error:
            handed.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (found := handed.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
            turn.release()
    finally:
        left.set()
        turn.release()
        thread.join()
