"""The benchmark as a whole: its files, what is not done twice, methods that fail, and wrong use."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import dehaze_zoo
from benchmark_minis import config, pairs, run
from dehaze_zoo.benchmark import compare, runner
from dehaze_zoo.benchmark.__main__ import composed_words, job
from dehaze_zoo.benchmark.board import COSTS, Entry, make_board
from dehaze_zoo.benchmark.published import published
from dehaze_zoo.benchmark.scoring import Judge, haze_density
from dehaze_zoo.benchmark.store import Score, Store
from dehaze_zoo.benchmark.subjects import JudgedSet, methods_of
from dehaze_zoo.benchmark.tables import markdown
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import run_verb
from dehaze_zoo.data import pairs as pair_reading
from dehaze_zoo.data.decoder import decoder_stamp
from dehaze_zoo.data.images import read_rgb
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.evaluate import evaluate
from dehaze_zoo.metrics.catalogue import choose_metrics
from dehaze_zoo.metrics.protocols import choose_protocols
from dehaze_zoo.networks import registry

BRISQUE = "gamma 0.05\nrho -12.5\nSV\n1 1:0.5 36:-0.5\n"
"""A support vector machine in libsvm's text form."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs(tmp_path_factory.mktemp("sets") / "sots")


def on(root: Path) -> list[str]:
    return ["data=[reside_indoor]", f"++roots.reside_indoor='{root}'"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Images that a network has worked on."""
    seen: list[str] = []
    before = runner.overlapped

    def spy(items: Any, read: Any, work: Any, finish: Any) -> Iterator[Any]:
        for item, outcome in before(items, read, work, finish):
            seen.append(str(item))
            yield item, outcome

    monkeypatch.setattr(runner, "overlapped", spy)
    return seen


def test_files_figures_and_ranks(root: Path, tmp_path: Path) -> None:
    code, found = run(tmp_path / "run", "models=[identity,dcp,identity:twin]", *on(root), "cost.sizes=[32]", "cost.rounds=3")
    assert code == 0
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html", "comparisons.csv", "per_image.parquet", "report.json",
    }  # fmt: skip
    table = pq.read_table(tmp_path / "run" / "per_image.parquet").to_pylist()
    assert len(table) == 36
    assert list(found[0])[:8] == ["model", "data", "protocol", "images", "psnr", "psnr_low", "psnr_high", "ssim"]
    assert list(found[0])[8:12] == ["rank", "parameters", "macs", "latency_ms"]
    by_model = {row["model"]: row for row in found}
    for name, row in by_model.items():
        own = [image["psnr"] for image in table if image["model"] == name]
        assert float(row["psnr"]) == pytest.approx(np.mean(own), abs=1e-3)
        assert float(row["psnr_low"]) < float(row["psnr"]) < float(row["psnr_high"])
        assert (row["images"], row["scenes"], row["data"], row["protocol"]) == ("12", "6", "reside_indoor", "gunet")
        thirds = [float(row[f"psnr_{part}"]) for part in ("light", "medium", "dense")]
        assert np.mean(thirds) == pytest.approx(float(row["psnr"]), abs=1e-3)
        assert float(row["psnr_worst"]) == pytest.approx(min(own), abs=1e-3)
    assert by_model["identity"]["psnr"] == by_model["twin"]["psnr"]
    assert by_model["identity"]["rank"] == by_model["twin"]["rank"]
    assert by_model["dcp"]["published_psnr"] == "16.62"
    assert float(by_model["dcp"]["gap_psnr"]) == pytest.approx(float(by_model["dcp"]["psnr"]) - 16.62, abs=1e-3)
    for name in ("leaderboard.md", "leaderboard.tex"):
        text = (tmp_path / "run" / name).read_text()
        assert f"{float(by_model['dcp']['psnr']):.2f}" in text
        assert "16.62" in text
        assert "gunet" in text
        for row in found:
            latency = f"{float(row['latency_ms']):.1f}{'*' if 'latency_ms' in row['pareto'] else ''} ["
            (line,) = [line for line in text.splitlines() if latency in line and row["model"] in line]
            assert line.strip("| &\\").endswith(f" {float(row['peak_mib']):.0f}")
        assert "* on the Pareto front" in text


def test_figures_are_those_of_evaluate(root: Path, tmp_path: Path) -> None:
    from dehaze_zoo.cli import compose

    _, found = run(tmp_path / "run", "models=[dcp]", *on(root), "protocol=all")
    (tmp_path / "evaluate").mkdir()
    words = ["model=dcp", "trainer=cpu", "protocol=all", "examples=0", "data=reside_indoor", f"data.root='{root}'"]
    evaluate(compose("evaluate", words), tmp_path / "evaluate")
    theirs = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    ours = {row["protocol"]: row for row in found}
    (line,) = [
        line for line in (tmp_path / "run" / "leaderboard.md").read_text().split("under each protocol")[1].splitlines() if "dcp" in line
    ]
    shown = [float(cell) for cell in line.strip("| ").split(" | ")[1:5]]
    assert shown[:3] == pytest.approx([float(ours[name]["psnr"]) for name in ("gunet", "uint8", "y")], abs=0.006)
    assert shown[3] == pytest.approx(max(shown[:3]) - min(shown[:3]), abs=0.011)
    assert set(ours) == {"gunet", "uint8", "y"}
    for row in theirs:
        for metric in ("psnr", "ssim"):
            assert float(ours[row["protocol"]][metric]) == pytest.approx(row[metric], abs=1e-4)


def test_what_is_done_is_not_done_again(root: Path, tmp_path: Path, counted: list[str]) -> None:
    _, first = run(tmp_path / "1", "models=[identity]", *on(root), "limit=4")
    assert len(counted) == 4
    _, second = run(tmp_path / "2", "models=[identity]", *on(root), "limit=4")
    assert len(counted) == 4
    assert second == first
    run(tmp_path / "3", "models=[identity,dcp]", *on(root))  # 8 more, and a new method
    assert len(counted) == 4 + 8 + 12
    run(tmp_path / "4", "models=[identity]", *on(root), "protocol=y")
    assert len(counted) == 4 + 8 + 12 + 12


def test_results_that_another_decoder_read_are_shown_marked_and_rank_nobody(
    root: Path, tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = decoder_stamp()
    theirs = {**ours, "probe": "0123456789abcdef", "pillow": "9.0.0"}
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(compare, "decoder_stamp", lambda: theirs)
        elsewhere.setattr(pair_reading, "read_rgb", lambda path: np.maximum(read_rgb(path), 40))
        run(tmp_path / "1", "models=[identity,dcp]", *on(root))
    assert len(counted) == 24
    _, rows = run(tmp_path / "alone", "models=[identity,dcp]", *on(root), f"store='{tmp_path / 'another'}'")
    assert all(row["decoder"].startswith(ours["probe"]) for row in rows)
    assert "decoder_differs" not in rows[0]
    assert "‡" not in (tmp_path / "alone" / "leaderboard.md").read_text()
    counted.clear()

    code, mixed = run(tmp_path / "2", "models=[identity,dcp,identity:new]", *on(root))
    assert (code, len(counted)) == (0, 24)  # done again with this one; new's figures are identity's
    by_model = {row["model"]: row for row in mixed}
    other = by_model["identity (decoder 01234567)"]
    said = f"0123456789abcdef there, to {ours['probe']} here; pillow 9.0.0 there, {ours['pillow']} here"
    assert said in other["decoder_differs"]
    assert other["decoder"].startswith("0123456789abcdef (libjpeg")
    assert "pillow 9.0.0)" in other["decoder"]
    assert (other["rank"], other["images"], other["latency_ms"]) == ("", "12", "")
    assert other["psnr"] != by_model["identity"]["psnr"]
    for row in rows:  # what stands in the store changes nothing of ours
        assert {key: by_model[row["model"]][key] for key in row if key not in COSTS} == {key: row[key] for key in row if key not in COSTS}
    assert [row["rank"] for row in mixed] == ["1", "2", "2", "", "", ""]
    for name in ("leaderboard.md", "leaderboard.tex", "leaderboard.html"):
        text = (tmp_path / "2" / name).read_text()
        assert said in text.replace(r"\_", "_")
        assert "‡" in text
    (line,) = [line for line in (tmp_path / "2" / "leaderboard.md").read_text().splitlines() if line.startswith("| – | dcp")]
    assert line.startswith("| – | dcp (decoder 01234567) ‡ |")
    with open(tmp_path / "2" / "comparisons.csv", newline="", encoding="utf-8") as file:
        pairs_of = {(row["a"], row["b"]): row["decoders_differ"] for row in csv.DictReader(file)}
    assert not any(pairs_of[pair] for pair in (("identity", "dcp"), ("identity", "new"), ("dcp", "new")))
    marked = {("identity", "identity (decoder 01234567)"), ("dcp", "dcp (decoder 01234567)"), ("new", "new (decoder 01234567)")}
    assert marked == {pair for pair, differ in pairs_of.items() if said in differ}
    table = pq.read_table(tmp_path / "2" / "per_image.parquet").to_pylist()
    assert {row["decoder"] for row in table if "(decoder" in row["model"]} == {"0123456789abcdef"}
    assert {row["decoder"] for row in table if "(decoder" not in row["model"]} == {ours["probe"]}
    assert json.loads((tmp_path / "2" / "report.json").read_text())["decoder"] == ours


def test_a_changed_picture_is_another_set(root: Path, tmp_path: Path, counted: list[str]) -> None:
    own = tmp_path / "own"
    shutil.copytree(root, own)
    run(tmp_path / "1", "models=[identity]", *on(own))
    Image.new("RGB", (64, 48), (200, 200, 200)).save(own / "hazy" / "1400_1.png")
    run(tmp_path / "2", "models=[identity]", *on(own))
    assert len(counted) == 24


def test_a_killed_run_goes_on_where_it_stopped(root: Path, tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "COMMIT_EVERY", 0.0)
    _, whole = run(tmp_path / "a" / "run", "models=[dcp]", *on(root))
    before = runner.overlapped

    def killed(*parts: Any) -> Iterator[Any]:
        for number, found in enumerate(before(*parts)):
            if number == 5:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(runner, "overlapped", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b" / "run", "models=[dcp]", *on(root))
    counted.clear()
    _, resumed = run(tmp_path / "b" / "run", "models=[dcp]", *on(root))
    assert len(counted) == 7
    assert resumed == whole


class Picky(nn.Module):
    """Fails on one kind of picture."""

    def forward(self, hazy: Tensor) -> Tensor:
        if hazy.shape[-1] == 50:
            raise RuntimeError("no kernel for 50 columns")
        return hazy


def test_a_model_that_fails_on_one_image_is_named_and_the_rest_is_done(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.list_models()
    monkeypatch.setitem(registry._entries, "picky", registry._Entry(lambda: Picky(), "", "", "", ""))
    own = tmp_path / "own"
    shutil.copytree(root, own)
    for file in (own / "hazy" / "1402_1.png", own / "hazy" / "1402_2.png", own / "gt" / "1402.png"):
        Image.open(file).resize((50, 40)).save(file)
    (own / "hazy" / "1403_1.png").write_bytes(b"no picture")
    code, found = run(tmp_path / "run", "models=[picky,identity]", *on(own))
    assert code == 1
    assert {row["model"]: row["images"] for row in found} == {"picky": "9", "identity": "11"}
    failed = json.loads((tmp_path / "run" / "report.json").read_text())["failed"]
    assert [(f["model"], Path(f["file"]).name) for f in failed] == [
        ("picky", "1402_1.png"), ("picky", "1402_2.png"), ("picky", "1403_1.png"), ("identity", "1403_1.png"),
    ]  # fmt: skip
    assert failed[0]["why"] == "RuntimeError: no kernel for 50 columns" or "no kernel" in failed[0]["why"]
    assert "9 of 12 images" in (tmp_path / "run" / "leaderboard.md").read_text()


def test_a_figure_that_the_store_refuses_is_a_failure_and_the_rest_is_done(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = runner.plan

    def with_another_program(store: Store, job: int, *rest: Any) -> Any:
        todo = plan(store, job, *rest)
        store.add(job, [Score("1401_2.png", "gunet", "psnr", 99.0)])
        return todo

    monkeypatch.setattr(runner, "plan", with_another_program)
    code, found = run(tmp_path / "run", "models=[identity]", *on(root), "limit=4")
    assert (code, found[0]["images"]) == (1, "4")
    (failed,) = json.loads((tmp_path / "run" / "report.json").read_text())["failed"]
    assert failed["file"] == "1401_2.png (gunet psnr)"
    assert "the store holds 99.0" in failed["why"]
    assert max(row["psnr"] for row in pq.read_table(tmp_path / "run" / "per_image.parquet").to_pylist()) == 99.0


def test_finished_pictures_join_without_costs(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "their pictures"
    folder.mkdir()
    for number, file in enumerate(sorted((root / "hazy").iterdir())):
        if number != 3:
            shutil.copy(file, folder / file.name)
    shutil.copy(root / "hazy" / "1400_1.png", folder / "1400_1.jpg")  # a second one of this name
    code, found = run(tmp_path / "run", "models=[identity,results:FFA-Net]", f"++results.FFA-Net='{folder}'", *on(root), "cost.sizes=[16]")
    assert code == 1
    theirs = next(row for row in found if row["model"] == "FFA-Net")
    assert (theirs["kind"], theirs["images"], theirs["parameters"], theirs["latency_ms"]) == ("pictures only", "10", "", "")
    assert theirs["published_psnr"] == "36.39"
    failed = json.loads((tmp_path / "run" / "report.json").read_text())["failed"]
    assert [(f["file"], "several" in f["why"]) for f in failed] == [("1400_1.png", True), ("1401_2.png", False)]
    assert "pictures only" in (tmp_path / "run" / "leaderboard.md").read_text()


def test_trainings_with_several_seeds_are_one_row(root: Path, tmp_path: Path) -> None:
    for seed, place in ((3, "3"), (7, "7"), (7, "7/init")):  # the last is what 7 started from
        torch.manual_seed(seed + len(place))
        folder = tmp_path / "sweep" / place / "checkpoints"
        folder.mkdir(parents=True)
        net = dehaze_zoo.create_model("gunet_t", width=8, depth=1)
        torch.save({"state_dict": {f"network.{k}": v for k, v in net.state_dict().items()}}, folder / "best.ckpt")
        (folder.parent / "config.yaml").write_text(f"seed: {seed}\nmodel: {{network: {{name: gunet_t, width: 8, depth: 1}}}}\n")
    code, found = run(tmp_path / "run", "models=[gunet_t]", f"++checkpoints.gunet_t='{tmp_path / 'sweep'}'", *on(root))
    table = pq.read_table(tmp_path / "run" / "per_image.parquet").to_pylist()
    means = [np.mean([row["psnr"] for row in table if row["seed"] == seed]) for seed in (3, 7)]
    assert (code, found[0]["seeds"], found[0]["images"]) == (0, "2", "12")
    assert float(found[0]["psnr"]) == pytest.approx(np.mean(means), abs=1e-3)
    sd = np.std(means, ddof=1)
    assert float(found[0]["psnr_sd_of_seeds"]) == pytest.approx(sd, abs=1e-4)
    for name in ("leaderboard.md", "leaderboard.tex"):
        assert f"2 ({sd:.2f})" in (tmp_path / "run" / name).read_text()


def test_a_folder_of_runs_is_one_training_with_several_seeds(tmp_path: Path) -> None:
    def found(folder: str) -> list[str]:
        (method,) = methods_of(["ktdn"], {"ktdn": str(tmp_path / folder)}, {}, ["ktdn"])
        return [str(member.checkpoint.relative_to(tmp_path)) for member in method.members if member.checkpoint]

    for run_dir, seed, done in (("a/0", 0, True), ("a/0/teacher", 0, True), ("a/1", 1, False), ("a/1/teacher", 1, True)):
        (tmp_path / run_dir / "checkpoints").mkdir(parents=True)
        (tmp_path / run_dir / "config.yaml").write_text(f"seed: {seed}\n")
        if done:
            (tmp_path / run_dir / "checkpoints" / "best.ckpt").touch()
    assert found("a") == found("a/0") == ["a/0/checkpoints/best.ckpt"]
    with pytest.raises(UsageError, match="no run in this folder"):
        found("a/1")
    shutil.copytree(tmp_path / "a" / "0", tmp_path / "a" / "2")
    with pytest.raises(UsageError, match=r"seed 0, .*a/0/checkpoints/best.ckpt and .*a/2/checkpoints/best.ckpt"):
        found("a")


def test_a_training_without_scores_does_not_empty_its_method() -> None:
    images = {"1.png": 0, "2.png": 1}
    judged = JudgedSet("set", None, images, {image: image for image in images}, "")
    scores = {seed: [Score(image, "gunet", "psnr", 20.0 + seed + n) for image, n in images.items()] for seed in (0, 1)}
    board = make_board([Entry("net", judged, {**scores, 2: []}, [])], Judge(choose_protocols("gunet"), choose_metrics(["psnr"]), {}))
    (row,) = board.rows
    assert (row["psnr"], row["images"], row["seeds"], row["of_seeds"]) == (21.0, 2, 2, 3)
    assert row["psnr_sd_of_seeds"] == pytest.approx(np.std([20.5, 21.5], ddof=1))
    assert "2 of 3 (0.71)" in markdown(board)


def test_the_same_weights_in_another_file_are_the_same_job(root: Path, tmp_path: Path, counted: list[str]) -> None:
    net = dehaze_zoo.create_model("aodnet")
    write_safetensors(net, tmp_path / "a.safetensors", "aodnet")
    torch.save(net.state_dict(), tmp_path / "b.pth")
    run(tmp_path / "1", "models=[aodnet]", f"++checkpoints.aodnet='{tmp_path / 'a.safetensors'}'", *on(root))
    run(tmp_path / "2", "models=[aodnet:mine]", f"++checkpoints.mine='{tmp_path / 'b.pth'}'", *on(root))
    assert len(counted) == 12


def test_a_metric_s_limits_are_its_own(root: Path, tmp_path: Path) -> None:
    code, found = run(tmp_path / "run", "models=[identity]", *on(root), "limit=2", "metrics=[ms_ssim,ciede2000]")
    assert code == 1
    assert found[0]["images"] == "2"
    assert float(found[0]["ciede2000"]) > 0
    assert found[0].get("ms_ssim", "") == ""
    failed = json.loads((tmp_path / "run" / "report.json").read_text())["failed"]
    assert "176" in failed[0]["why"]
    assert failed[0]["file"].endswith("(ms_ssim)")


def test_the_synthetic_set_and_another_side_by_side(root: Path, tmp_path: Path) -> None:
    words = ["models=[identity]", "data=[synthetic,reside_indoor]", f"++roots.reside_indoor='{root}'", "examples=1"]
    code, found = run(tmp_path / "run", *words, "sets.synthetic.test_pairs=2", "sets.synthetic.picture_size=[32,40]")
    assert code == 0
    assert [(row["data"], row["images"]) for row in found] == [("synthetic", "2"), ("reside_indoor", "12")]


def test_photographs_have_tables_of_their_own(root: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(root / "hazy", photos)
    machine = tmp_path / "allmodel"
    machine.write_text(BRISQUE)
    words = ["models=[identity,dcp]", "data=[reside_indoor,photos:real]", f"++roots.reside_indoor='{root}'", f"++roots.real='{photos}'"]
    code, found = run(tmp_path / "run", *words, "metrics=[brisque]", f"brisque.weights='{machine}'")
    assert code == 0
    assert sorted({(row["data"], row["protocol"]) for row in found}) == [
        ("real", "no_reference"), ("reside_indoor", "gunet"), ("reside_indoor", "no_reference"),
    ]  # fmt: skip
    blind = [row for row in found if row["protocol"] == "no_reference"]
    assert all(row["psnr"] == "" and 12 <= float(row["brisque"]) <= 13.5 for row in blind)
    by_data = {row["data"]: row["brisque"] for row in blind if row["model"] == "identity"}
    assert by_data["real"] == by_data["reside_indoor"]  # the same pictures
    assert "## real, protocol no_reference" in (tmp_path / "run" / "leaderboard.md").read_text()
    shutil.copytree(photos, tmp_path / "rtts" / "JPEGImages")
    words = ["models=[identity]", "data=[rtts]", f"++roots.rtts='{tmp_path / 'rtts'}'"]
    _, found = run(tmp_path / "2", *words, "metrics=[brisque]", f"brisque.weights='{machine}'")
    assert [(row["data"], row["images"], row["brisque"]) for row in found] == [("rtts", "12", by_data["real"])]
    with pytest.raises(UsageError, match=r"needs metrics=\[niqe\]"):
        run(tmp_path / "run", *words)


def test_figures_of_other_parameters_are_others(root: Path, tmp_path: Path, counted: list[str]) -> None:
    found = []
    for name, text in (("a", BRISQUE), ("b", BRISQUE.replace("-12.5", "-40.5")), ("a again", BRISQUE)):
        (tmp_path / name).write_text(text)
        words = ["metrics=[brisque]", f"brisque.weights='{tmp_path / name}'", "limit=2"]
        _, rows = run(tmp_path / "run", "models=[identity]", *on(root), *words)
        found.append(float(rows[1]["brisque"]))
    assert found[1] == pytest.approx(found[0] + 28, abs=1e-3)
    assert found[2] == found[0]
    assert len(counted) == 4


def test_metrics_that_cannot_be_had_are_named_and_the_rest_is_done(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", no_network)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.delenv("DEHAZE_ZOO_WEIGHTS", raising=False)
    code, found = run(tmp_path / "run", "models=[identity]", *on(root), "metrics=[lpips,niqe,ciede2000]")
    assert code == 1
    assert float(found[0]["ciede2000"]) > 0
    failed = json.loads((tmp_path / "run" / "report.json").read_text())["failed"]
    assert [f["file"] for f in failed] == ["metric lpips", "metric niqe"]
    assert "cannot be fetched" in failed[0]["why"]


def test_the_verb_from_the_command_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a, b = c").mkdir()
    shutil.copytree(root, tmp_path / "a, b = c" / "sots")
    command = [sys.executable, "-m", "dehaze_zoo.benchmark", "models=[identity]", "data=[reside_indoor]", "trainer=cpu", "cost=null"]
    command += [f"roots.reside_indoor={tmp_path / 'a, b = c' / 'sots'}", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "judged 12 pictures" in done.stdout
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"config.yaml", "environment.json", "leaderboard.html", "store"}
    wrong = subprocess.run([*command, "models=[dcpp]"], capture_output=True, text=True)
    assert (wrong.returncode, "dcp" in wrong.stderr, "Traceback" in wrong.stderr) == (2, True, False)


def test_photographs_from_the_command_line(root: Path, tmp_path: Path) -> None:
    photos = tmp_path / "a, b = c"
    shutil.copytree(root / "hazy", photos)
    (tmp_path / "allmodel").write_text(BRISQUE)
    words = ["models=[identity]", "data=[photos:x]", f"roots.x={photos}", "metrics=[brisque]", f"brisque.weights={tmp_path / 'allmodel'}"]
    words += ["trainer=cpu", "cost=null", "limit=2", f"run_dir={tmp_path / 'run'}"]
    assert run_verb("benchmark", job, composed_words(words)) == 0
    assert "| identity |" in (tmp_path / "run" / "leaderboard.md").read_text().split("## x, protocol no_reference, 2 images")[1]


def test_sets_of_other_makes_are_known_by_their_pictures(root: Path, tmp_path: Path, counted: list[str]) -> None:
    for number in (1, 2):
        clear = tmp_path / f"clear{number}"
        shutil.copytree(root / "gt", clear)
        if number == 2:
            for file in clear.iterdir():
                Image.open(file).rotate(180).save(file)
        words = ["models=[identity]", "data=[synthetic]", f"sets.synthetic.clear='{clear}'", "sets.synthetic.holdout=0.3"]
        assert run(tmp_path / f"run{number}", *words)[0] == 0
        assert run(tmp_path / f"run{number}", *words)[0] == 0
    assert len(counted) == 4  # two test pictures, each kind once


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    alive = most = 0

    class Held:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    for _ in runner.overlapped(range(200), lambda _: Held(), lambda _, held: held, lambda *_: None):
        pass
    assert most < 15


def test_the_overlap_keeps_order_and_hands_on_what_failed() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise ValueError("unreadable")
        return item * 10

    def work(item: int, held: int) -> int:
        if item == 3:
            raise ValueError("unworkable")
        return held + 1

    def finish(item: int, held: int, worked: int) -> int:
        if item == 4:
            raise ValueError("unjudgeable")
        return worked

    found = [(item, str(outcome)) for item, outcome in runner.overlapped(range(6), read, work, finish)]
    assert found == [(0, "1"), (1, "11"), (2, "unreadable"), (3, "unworkable"), (4, "unjudgeable"), (5, "51")]


def test_density_is_what_the_scattering_model_took_away() -> None:
    clear = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1.0, 0.6, 0.2]).view(3, 1, 1, 1)
    assert torch.allclose(haze_density(clear * t + 0.9 * (1 - t), clear), 1 - t.flatten().double(), atol=1e-4)
    assert haze_density(clear[:, :, :1, :1], clear[:, :, :1, :1]).tolist() == [0, 0, 0]  # nothing to tell it by


def test_density_is_not_misled_by_bright_far_things() -> None:
    depth = torch.linspace(0, 1, 40).view(1, 1, 40, 1).expand(1, 3, 40, 30)  # the sky: far, bright, drowned in brighter haze
    clear = 0.1 + 0.7 * depth + 0.1 * torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    thin, thick = (haze_density(clear * t + 1.5 * (1 - t), clear).item() for t in (torch.exp(-0.3 * depth), torch.exp(-1.5 * depth)))
    assert 0 < thin < thick < 1


def test_published_figures_by_name_and_set() -> None:
    assert published("gunet_b", "reside_indoor") == published("gUNet-B", "reside_indoor")
    found = published("aodnet", "reside_outdoor")
    assert found is not None
    assert (found.method, found.psnr, found.ssim) == ("AOD-Net", 24.14, 0.92)
    assert published("gcanet", "reside_outdoor") is None
    assert published("gunet_t", "synthetic") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models=[dpc]"], "dcp"),
        (["models=[]"], "names nobody"),
        (["models=[dcp,dcp]"], "twice"),
        (["models=[aodnet]"], "aodnet"),
        (["models=[results:mine]"], "results.mine=DIR"),
        (["models=[dcp]", "++checkpoints.gunet=x"], "checkpoints.gunet"),
        (["models=[dcp]", "protocol=gunnet"], "gunet"),
        (["models=[dcp]", "metrics=[lpipps]"], "lpips"),
        (["models=[dcp]", "metrics=[niqe]", "niqe.weights=/nowhere.mat"], "nowhere.mat"),
        (["models=[dcp]", "++roots.haze4k=/tmp"], "haze4k"),
        (["models=[dcp]", "split=tset"], "tset"),
        (["models=[dcp]", "logger=csv"], "logger=csv.*logger=wandb"),
        (["models=[dcp]", "data=[photos:mine]"], "roots.mine=DIR"),
    ],
)
def test_wrong_use(words: list[str], said: str, root: Path, tmp_path: Path) -> None:
    data = [] if any("data=" in word for word in words) else on(root)
    with pytest.raises(UsageError, match=said) as error:
        run(tmp_path / "run", *words, *data)
    assert len(str(error.value).splitlines()) <= 5


def test_a_typing_error_in_data_offers_the_near_one() -> None:
    with pytest.raises(UsageError, match="reside_indoor"):
        config("data=[reside_indor]")


def test_words_for_hydra() -> None:
    assert composed_words(["data=[a, b]", "x=1"]) == ["+data@sets.a=a", "+data@sets.b=b", "x=1"]
    assert composed_words(["x=1"]) == ["+data@sets.synthetic=synthetic", "x=1"]
    assert composed_words(["data=[photos:p]"]) == ["photo_sets=[p]"]
    assert composed_words(["photo_sets=[p]", "run_dir='0'"]) == ["photo_sets=[p]", "run_dir='0'"]  # a job of a sweep
    assert composed_words(["+data@sets.a=a"]) == ["+data@sets.a=a"]
