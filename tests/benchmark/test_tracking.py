"""An offline W&B run of the benchmark, read back from its own file; the dashboard's specs."""

from __future__ import annotations

import importlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

import dehaze_zoo
from benchmark_minis import pairs, run
from dehaze_zoo.checkpoints.writing import write_safetensors
from dehaze_zoo.cli import compose

wandb = pytest.importorskip("wandb")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data", "cache", "config"):
        monkeypatch.setenv(f"WANDB_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def records(file: Path) -> list[Any]:
    """What the run would send, from its transaction log: LevelDB's log format, blocks of 32 KiB, after a head of 7 bytes."""
    protocol: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    data, place, parts, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(protocol.Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.usefixtures("offline")
def test_an_offline_run_holds_the_tables_the_pictures_and_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(tmp_path / "sots")
    write_safetensors(dehaze_zoo.create_model("aodnet"), tmp_path / "aodnet.safetensors", "aodnet")
    monkeypatch.setattr("dehaze_zoo.benchmark.tracking.shipped_weights", {"identity": tmp_path / "aodnet.safetensors"}.get)
    words = ["models=[identity,aodnet]", f"++checkpoints.aodnet='{tmp_path / 'aodnet.safetensors'}'", "data=[reside_indoor]"]
    words += [
        f"++roots.reside_indoor='{root}'",
        "logger=wandb",
        "logger.wandb.group=tests",
        "cost.sizes=[32]",
        "cost.rounds=2",
        "examples=3",
    ]
    code, rows = run(tmp_path / "run", *words)
    assert code == 0
    assert "wandb sync" in capsys.readouterr().out
    wandb.teardown()  # its service process writes the last of the log as it ends
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    found = records(next(folder.glob("*.wandb")))
    (started,) = (record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (started.project, started.run_group, started.job_type) == ("dehaze_zoo", "tests", "benchmark")
    logged = {
        tuple(item.nested_key): json.loads(item.value_json)
        for record in found
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
    }
    table = json.loads((folder / "files" / logged["leaderboard", "path"]).read_text())
    held = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["model"] for row in held] == [row["model"] for row in rows]
    assert held[0]["psnr"] == pytest.approx(float(rows[0]["psnr"]), abs=1e-3)
    artifacts = {record.artifact.name: record.artifact for record in found if record.WhichOneof("record_type") == "artifact"}
    (name,) = (name for name in artifacts if name.endswith("-per_image"))
    files = {entry.path: Path(entry.local_path) for entry in artifacts[name].manifest.contents}
    per_image = json.loads(files["per_image.table.json"].read_text())
    images = [dict(zip(per_image["columns"], row, strict=True)) for row in per_image["data"]]
    assert sorted((row["model"], row["image"]) for row in images) == sorted(
        (model, f"{scene}_{haze}.png") for model in ("identity", "aodnet") for scene in range(1400, 1406) for haze in (1, 2)
    )
    pictures = [row for row in images if row["restored"] is not None]
    assert {row["model"] for row in pictures} == {"identity", "aodnet"}
    assert 6 <= len(pictures) < len(images)
    for row in pictures:
        assert all(files[row[kind]["path"]].is_file() for kind in ("hazy", "restored", "clear", "error"))
    assert ("comparisons", "path") in logged
    assert any(key[0].startswith("psnr_against_latency_ms") for key in logged)
    assert [entry.path for entry in artifacts["weights-aodnet"].manifest.contents] == ["aodnet.safetensors"]
    assert [entry.path for entry in artifacts["weights-identity"].manifest.contents] == [
        "aodnet.safetensors"
    ]  # shipped, as far as it knows
    (results,) = (artifact for artifact in artifacts.values() if artifact.type == "results")
    assert {"leaderboard.csv", "leaderboard.html", "per_image.parquet"} <= {entry.path for entry in results.manifest.contents}


def test_a_run_that_w_and_b_does_not_take_has_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**_: Any) -> None:
        raise wandb.errors.CommError("no route to api.wandb.ai")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", unreachable)
    root = pairs(tmp_path / "sots", scenes=2, hazes=1)
    code, rows = run(tmp_path / "run", "models=[identity]", "data=[reside_indoor]", f"++roots.reside_indoor='{root}'", "logger=wandb")
    assert (code, rows[0]["images"]) == (1, "2")
    (failed,) = json.loads((tmp_path / "run" / "report.json").read_text())["failed"]
    assert (failed["file"], "no route" in failed["why"]) == ("logger=wandb", True)


@pytest.mark.usefixtures("offline")
def test_the_dashboard_is_a_spec_that_names_the_benchmark_s_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces")
    from dehaze_zoo.benchmark.dashboard import dashboard

    assert dashboard(compose("dashboard", ["project=haze", "entity=us"]), tmp_path).code == 0
    assert "wandb login" in capsys.readouterr().out
    workspace, report = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("workspace", "report"))
    assert (workspace["entity"], workspace["project"]) == ("us", "haze")
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][:3] == ["Leaderboard", "Pictures", "Cost and quality"]
    assert report["displayName"] == "Dehazing benchmark"
    for spec in (workspace, report):
        text = json.dumps(spec)
        assert all(f'"{table}"' in text for table in ("leaderboard", "comparisons", "per_image"))
