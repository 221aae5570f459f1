"""From the command line to a config: quoting, messages, exit codes, sweeps; on a config tree of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dehaze_zoo import cli, launchers
from dehaze_zoo.errors import UsageError
from dehaze_zoo.lock import held

Patch, Capture = pytest.MonkeyPatch, pytest.CaptureFixture[str]

NASTY = [
    "plain.jpg",
    "with space.jpg",
    "a=b,c(d)[e]{f}~g#h.png",
    'it\'s "quoted".png',
    "back\\slash\\",
    "back\\'quote",
    "trailing'",
    "${env:HOME}.png",
    "\\${x}.png",
    "münchen 霧.png",
    "~",
    "100%.jpg",
    "true",
    "5",
    " lead",
]

COMMON = (cli.config_root() / "common.yaml").read_text()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A miniature config tree: verb `try` with a group model (a, b) and a few keys."""
    root = tmp_path / "configs"
    (root / "model").mkdir(parents=True)
    (root / "common.yaml").write_text(COMMON)
    (root / "try.yaml").write_text(
        "defaults: [common, {model: alpha}, _self_]\ninput: null  # a file\nresume: null\nroots: {}\nlimits: {steps: 3, size: 64}\n"
    )
    for name in ("alpha", "beta"):
        (root / "model" / f"{name}.yaml").write_text(f"network: {{name: {name}}}\n")
    monkeypatch.setattr(cli, "config_root", lambda: root)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("value", NASTY)
def test_paths_reach_the_config_as_typed(tree: Path, value: str) -> None:
    for key in ("input", "roots.some_set"):
        cfg = cli.compose("try", [cli._quote_path(f"{key}={value}", sweep=False)])
        assert (cfg.input if key == "input" else cfg.roots.some_set) == value


def test_only_paths_are_quoted() -> None:
    assert cli._quote_path("trainer.max_epochs=3", False) == "trainer.max_epochs=3"
    assert cli._quote_path("loss=[l1,edge]", False) == "loss=[l1,edge]"
    assert cli._quote_path("input=null", False) == "input=null"
    assert cli._quote_path("data.root=a b", False) == "data.root='a b'"
    assert cli._quote_path("checkpoints.gunet_t=f", False) == "++checkpoints.gunet_t='f'"
    assert cli._quote_path("model.network.pretrained=a=b, (c).pth", False) == "model.network.pretrained='a=b, (c).pth'"
    assert cli._quote_path("model.network.pretrained=true", False) == "model.network.pretrained=true"


def test_under_a_sweep_commas_separate_jobs_unless_quoted() -> None:
    assert cli._quote_path("input=a b,c", True) == "input='a b','c'"
    assert cli._quote_path("input='a,b'", True) == "input='a,b'"
    assert cli._quote_path("init=null,a b", True) == "init=null,'a b'"
    assert cli._quote_path("model.network.pretrained=false,a b", True) == "model.network.pretrained=false,'a b'"


@pytest.mark.parametrize(
    ("override", "named", "offered"),
    [
        ("model=alhpa", "alhpa", "alpha"),
        ("modle=alpha", "modle", "model"),
        ("limits.stpes=3", "stpes", "steps"),
        ("limits.steps.deep=3", "deep", ""),
        ("sed=3", "sed", "seed"),
        ("model=[", "model=[", "key=value"),
    ],
)
def test_wrong_keys_and_options_are_named_with_near_misses(tree: Path, override: str, named: str, offered: str) -> None:
    with pytest.raises(UsageError) as caught:
        cli.compose("try", [override])
    assert named in str(caught.value)
    assert offered in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 6


def test_a_missing_path_is_named_before_the_job_starts(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(cfg: Any, run_dir: Path) -> Any:
        raise AssertionError("must not start")

    monkeypatch.setattr(sys, "argv", ["x", f"input={tree}/none.jpg"])
    with pytest.raises(SystemExit) as caught:
        cli.launch("try", job)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "none.jpg" in message
    assert "Traceback" not in message


def test_a_run_leaves_its_config_and_environment_and_exits_with_the_jobs_code(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def job(cfg: Any, run_dir: Path) -> Any:
        seen.update(cfg=cfg, run_dir=run_dir)
        return cli.Outcome(1)

    monkeypatch.setattr(sys, "argv", ["x", "run_dir=my run, (1)", "limits.size=9", "model=beta"])
    with pytest.raises(SystemExit) as caught:
        cli.launch("try", job)
    assert caught.value.code == 1
    assert seen["run_dir"] == tree / "my run, (1)"
    assert "size: 9" in (seen["run_dir"] / "config.yaml").read_text()
    environment = json.loads((seen["run_dir"] / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert seen["cfg"].name == "beta"


def test_usage_errors_of_a_job_exit_with_2_and_at_most_six_lines(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(cfg: Any, run_dir: Path) -> Any:
        raise UsageError("\n".join(f"line {i}" for i in range(20)))

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as caught:
        cli.launch("try", job)
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 6


@pytest.mark.parametrize(
    ("hazy", "said"),
    [([], "hazy=PATH is needed"), (["hazy=none"], "hazy=none: missing or empty"), (["hazy=bare"], "hazy=bare: missing or empty")],
)
def test_what_follows_a_run_is_checked_before_it(hazy: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    (tmp_path / "sharp" / "a").mkdir(parents=True)
    with pytest.raises(UsageError, match=said):
        cli.run_verb("train", lambda cfg, run_dir: cli.Outcome(), ["experiment=ridcp_small", "data.clear=sharp", *hazy])
    assert not (tmp_path / "outputs").exists()


def test_a_run_folder_that_takes_no_lock_is_named(tree: Path) -> None:
    (tree / "old" / "run.lock").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"run_dir=.*old cannot be written"):
        cli.run_verb("try", lambda cfg, run_dir: cli.Outcome(), ["run_dir=old"], lambda cfg, run_dir: held(run_dir))


def test_the_default_run_folder_is_verb_name_time(tree: Path) -> None:
    run_dir = Path(cli.compose("try", ["name=mine"]).run_dir)
    assert run_dir.parts[:3] == ("outputs", "try", "mine")
    assert len(run_dir.parts) == 4


def test_config_dir_adds_the_users_own_yaml(tree: Path) -> None:
    own = tree / "my yaml"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text("network: {name: mine}\n")
    search, rest = cli._search_path([cli._quote_path(f"config_dir={own}", False), "model=mine"])
    assert cli.compose("try", rest + search).model.network.name == "mine"
    with pytest.raises(UsageError, match="mine"):
        cli.compose("try", ["model=mien", *search])
    with pytest.raises(UsageError, match="no such folder"):
        cli._search_path(["config_dir=/none/such"])
    (own / "model" / "mine.yaml").write_text("network:\n- a\nb: {\n")
    with pytest.raises(UsageError, match=r"(?s)yaml.*mine.yaml"):  # a typing error there is no traceback
        cli.compose("try", ["model=mine", *search])


def test_a_sweep_is_checked_whole_before_its_first_job(tree: Path) -> None:
    with pytest.raises(UsageError, match="gamma"):
        cli.run_verb("try", lambda cfg, run_dir: cli.Outcome(), ["-m", "model=alpha,gamma"])
    with pytest.raises(UsageError, match="sweep=optuna"):
        cli.run_verb("try", lambda cfg, run_dir: cli.Outcome(), ["-m", "limits.size=interval(1,9)"])
    assert not (tree / "outputs").exists()


def test_a_message_comes_before_heavy_imports() -> None:
    """Help and wrong use answer in well under two seconds because nothing heavy is imported for them."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['train', 'modle=gunet_t']\n"
        "try: runpy.run_module('dehaze_zoo.train', run_name='__main__')\n"
        "except SystemExit as e: assert e.code == 2\n"
        "heavy = {'torch', 'cv2', 'pytorch_lightning', 'timm', 'wandb', 'kornia'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "modle" in done.stderr


def test_auto_goes_on_in_the_folder_whose_first_training_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dehaze_zoo.training import runs  # torch

    folders = []

    def run(self: launchers.Job) -> int:
        folders.append(self.folder)
        saved = self.folder / "checkpoints" / "last.ckpt"
        saved.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(saved, "w") as archive:
            archive.writestr("weights", "")
        return 143 if len(folders) == 1 else 0

    monkeypatch.setattr("dehaze_zoo.launchers.Job.run", run)
    monkeypatch.chdir(tmp_path)
    times = [f"run_dir=outputs/train/ktdn/2026-01-0{day}_00-00-00" for day in (1, 2, 3)]
    with pytest.raises(SystemExit):
        cli._composed("train", ["experiment=ktdn", "resume=auto", times[0]])
    cfg = cli._composed("train", ["experiment=ktdn", "resume=auto", times[1]])
    assert folders[1] == folders[0]
    assert Path(cfg.teacher) == folders[0] / "checkpoints" / "best.ckpt"
    assert Path(cfg.run_dir) == folders[0].parent
    there = runs.read_run(folders[0].parent)
    assert there is not None
    assert runs.differences(there, runs.run_of(cfg)) == []  # or its second training would be refused
    cli._composed("train", ["experiment=ktdn", "resume=auto", "seed=1", times[2]])  # another recipe
    assert folders[2] != folders[0]


def test_what_is_given_is_not_made_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.ckpt").touch()

    def refused(self: object) -> int:
        raise AssertionError("a run was started")

    monkeypatch.setattr("dehaze_zoo.launchers.Job.run", refused)
    overrides = ["experiment=shipped", f"run_dir='{tmp_path / 'run'}'"]
    assert Path(cli._composed("train", [*overrides, f"init='{tmp_path / 'weights.ckpt'}'"]).init) == tmp_path / "weights.ckpt"
    with pytest.raises(AssertionError, match="a run was started"):
        cli._composed("train", overrides)
