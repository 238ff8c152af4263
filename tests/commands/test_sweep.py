"""The summary of a sweep from runs on disk."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from PIL import Image

from seg4diff.commands.cli import sweep as sweep_command
from seg4diff.commands.sweep import places_of, read_runs, search_figure, summarise, summarise_folder, trained_blocks
from seg4diff.errors import UserError
from seg4diff.evaluation.report import CATEGORIES
from tests.conftest import REPO


def composed(*arguments):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("train", list(arguments), return_hydra_config=True)


@pytest.fixture
def sweep(tmp_path):
    """Two settings with two seeds each, and one run that never finished."""
    for number, (layer, seed, miou) in enumerate([(2, 0, 0.50), (2, 1, 0.54), (10, 0, 0.70), (10, 1, 0.71)]):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text(f"- expert_layer={layer}\n- seed={seed}\n")
        metrics = {"base/miou": 0.4, "lora/miou": miou, "protocol": "oracle", "miou_per_block": {"2": 0.4, "10": 0.6}}
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "4" / ".hydra").mkdir(parents=True)
    (tmp_path / "4" / ".hydra" / "overrides.yaml").write_text("- expert_layer=11\n- seed=0\n")
    (tmp_path / "5" / ".hydra").mkdir(parents=True)
    return tmp_path


def test_runs_are_read_in_order(sweep):
    runs = read_runs(sweep)
    assert [run["run"] for run in runs] == ["0", "1", "2", "3", "4"]
    assert runs[2]["overrides"] == {"expert_layer": "10", "seed": "0"} and runs[4]["figures"] == {}
    assert runs[2]["figures"]["miou_per_block/10"] == 0.6 and "protocol" not in runs[2]["figures"]


def test_overrides_of_every_form(sweep):
    (sweep / "0" / ".hydra" / "overrides.yaml").write_text("- a=1\n- +b.c=/x/y\n- ++d=[1,2]\n- ~e\n")
    assert read_runs(sweep)[0]["overrides"] == {"a": "1", "b.c": "/x/y", "d": "[1,2]", "e": ""}


def test_a_figure_that_some_runs_lack_is_averaged_over_the_others(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    runs = read_runs(sweep)
    del runs[0]["figures"]["lora/miou"], runs[2]["figures"]["lora/miou"], runs[3]["figures"]["lora/miou"]
    summarise(runs, sweep)
    means = [line for line in capsys.readouterr().out.splitlines() if "2 runs" in line]
    assert "54.0" in means[0] and "54.0" not in means[1]


def test_table_averages_repetitions_and_the_csv_keeps_every_run(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    summarise(read_runs(sweep), sweep)
    printed = capsys.readouterr().out
    assert "52.0 ± 2.8" in printed and "70.5 ± 0.7" in printed and "a run without figures has not finished" in printed
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["lora/miou"] for row in rows] == ["0.5", "0.54", "0.7", "0.71", ""]
    assert {file.name for file in sweep.iterdir() if file.is_file()} == {"sweep.csv", "sweep.png"}


def test_runs_of_several_sweeps_in_one_folder(sweep, capsys):
    (sweep / "card1-0" / ".hydra").mkdir(parents=True)
    (sweep / "card1-0" / ".hydra" / "overrides.yaml").write_text("- expert_layer=2\n- lora.rank=4\n")
    summarise_folder(sweep)
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["lora.rank"], row["seed"]) for row in rows][-2:] == [("4", "", "0"), ("card1-0", "4", "")]


def test_a_folder_without_runs_is_left_alone_and_named(tmp_path):
    summarise_folder(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"there is no run in {tmp_path}/nothing"):
        sweep_command(tmp_path / "nothing")


def test_a_run_whose_figures_are_damaged_has_an_empty_row(sweep, caplog, capsys):
    figures = sweep / "1" / "metrics.json"
    figures.write_text(figures.read_text()[:-3])
    summarise_folder(sweep)
    assert f"{figures} is no JSON object" in caplog.text
    with (sweep / "sweep.csv").open(newline="") as file:
        assert [row["lora/miou"] for row in csv.DictReader(file)] == ["0.5", "", "0.7", "0.71", ""]


def test_a_run_of_an_earlier_version_has_an_empty_row_and_is_named(sweep, caplog, capsys):
    (sweep / "2" / "metrics.json").write_text(json.dumps({"lora/miou": 0.7, "ceiling/miou": 0.9}))
    assert [bool(run["figures"]) for run in read_runs(sweep)] == [True, True, False, True, False]
    assert f"{sweep}/2/metrics.json is of an earlier version" in caplog.text


def test_a_search_has_a_plot_for_each_setting_and_a_grid_one(tmp_path, capsys):
    widths = []
    for name, settings in (("grid", [(0.1, 4), (0.1, 8), (0.7, 4), (0.7, 8)]), ("search", [(0.31, 4), (0.12, 8), (0.55, 4)])):
        for number, (sigma, rank) in enumerate(settings):
            folder = tmp_path / name / str(number)
            (folder / ".hydra").mkdir(parents=True)
            (folder / ".hydra" / "overrides.yaml").write_text(f"- backbone.readout.sigma={sigma}\n- lora.rank={rank}\n")
            (folder / "metrics.json").write_text(json.dumps({"val/miou": sigma}))
        summarise_folder(tmp_path / name)
        widths.append(Image.open(tmp_path / name / "sweep.png").width)
    assert widths[1] > 1.5 * widths[0]


def test_runs_that_measured_images_have_a_table_for_each_variant(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for number, steps in enumerate((8, 28)):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text(f"- evaluation=generation\n- evaluation.steps={steps}\n")
        shares = {f"{variant}/{name}": (k + steps) / 100 for variant in ("base", "lora", "gain") for k, name in enumerate(CATEGORIES)}
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps({"ckpt": "base"} | shares))
    summarise_folder(tmp_path)
    printed = capsys.readouterr().out
    assert all(f"{variant} (%), sweep over evaluation.steps" in printed for variant in ("base", "LoRA", "LoRA - base"))
    assert all(f"{k + steps}.0" in printed for k in range(10) for steps in (8, 28))
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    colours = {colour for _, colour in Image.open(tmp_path / "sweep.png").convert("RGB").getcolors(1 << 24)}
    assert {(31, 119, 180), (23, 190, 207)} <= colours, "lines of the first and of the last category"


def test_numbers_stand_where_they_belong_and_words_side_by_side():
    assert places_of(["10", "2", "1e-2"]) == {"10": 10.0, "2": 2.0, "1e-2": 0.01}
    assert places_of(["oracle", "vocabulary", "2"]) == {"oracle": 0, "vocabulary": 1, "2": 2}


@pytest.mark.parametrize(("objective", "expected"), [("val/miou", 0.5), ("lora/miou", None), ("protocol", None)])
def test_a_search_needs_its_figure_and_other_runs_do_not(objective, expected, monkeypatch):
    metrics = {"val/miou": 0.5, "protocol": "oracle"}
    for sweeper in ("basic", "search"):
        config = composed(f"hydra/sweeper={sweeper}", f"sweep_objective={objective}")
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        if expected is None and sweeper == "search":
            with pytest.raises(UserError, match=f"sweep_objective={objective} is no figure of this run: choose one of val/miou"):
                search_figure(config, metrics)
        else:
            assert search_figure(config, metrics) == expected


def test_what_the_launchers_and_the_search_are_given():
    """Composing checks names and types of our values against the plugins' own."""
    config = composed("hydra/launcher=slurm", "hydra/sweeper=search", "hydra.sweep.dir=here", "seed=3", "hydra.launcher.partition=gpu")
    launcher, sweeper = instantiate(config.hydra.launcher), instantiate(config.hydra.sweeper)
    asked = {name: launcher.params[name] for name in ("partition", "timeout_min", "gpus_per_node", "signal_delay_s", "max_num_timeout")}
    assert asked == {"partition": "gpu", "timeout_min": 720, "gpus_per_node": 1, "signal_delay_s": 120, "max_num_timeout": 10}
    assert launcher.params["submitit_folder"] == "here/.submitit/%j" and launcher.params["name"] == "quickstart"
    assert sweeper.sweeper.direction == "maximize" and sweeper.sweeper.max_failure_rate == 0.5
    assert config.hydra.sweeper.sampler.seed == 3


def test_what_was_trained_on_each_block_is_read_from_the_table(sweep):
    summarise_folder(sweep)
    found = trained_blocks(sweep)
    assert found["trained"] == {2: pytest.approx(0.52), 10: pytest.approx(0.705)}
    assert found["trained gain"] == {2: pytest.approx(0.12), 10: pytest.approx(0.305)}


def test_a_sweep_without_a_table_or_without_blocks_is_refused(sweep):
    with pytest.raises(UserError, match="seg4diff sweep"):
        trained_blocks(sweep)
    (sweep / "sweep.csv").write_text("run,seed,base/miou,lora/miou\n0,1,0.4,0.5\n")
    with pytest.raises(UserError, match="has no scores by expert_layer"):
        trained_blocks(sweep)
