"""python -m dehaze_zoo.doctor: is this data set whole, readable and free of leaks? (data=reside_indoor data.root=DIR)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dehaze_zoo.cli import Outcome, launch
from dehaze_zoo.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dehaze_zoo.data.diagnosis import Diagnosis


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Reads every file of the set; writes report.json, report.txt and contact_sheet.png; code 1 for any problem but parts missing.

    The method is data/diagnosis.py's.
    """
    from dehaze_zoo.data.contact_sheet import write_contact_sheet
    from dehaze_zoo.data.diagnosis import diagnose
    from dehaze_zoo.data.images import write_aside
    from dehaze_zoo.data.layouts import check_on_disk, find_root
    from dehaze_zoo.inference.reporting import progress_bar, write_json

    check_on_disk(cfg.data.set, cfg.data.get("sets", ()))
    hazy, clear = (None if (folder := cfg.data.get(key)) is None else Path(folder) for key in ("hazy", "clear"))
    if (hazy is None) != (clear is None):
        raise UsageError("data.hazy and data.clear go together: give both folders, or data.root.")
    root = find_root(cfg.data.set, cfg.data.root) if hazy is None else None
    with progress_bar() as bar:
        task = bar.add_task("read", total=None)
        diagnosis = diagnose(cfg.data.set, root, hazy, clear, lambda done, total: bar.update(task, completed=done, total=total))
    write_json(run_dir / "report.json", diagnosis.as_json())
    text = told(diagnosis)
    write_aside(run_dir / "report.txt", (text + "\n").encode())
    write_contact_sheet(run_dir / "contact_sheet.png", diagnosis)
    print(text + f"\nreport.json, report.txt, contact_sheet.png: {run_dir}")
    return Outcome(0 if diagnosis.sound else 1, {"problems": len(diagnosis.problems)})


def told(diagnosis: Diagnosis, shown: int = 5) -> str:
    """The diagnosis for the terminal: what the set is, its problems by kind, and what to do."""
    from dehaze_zoo.data.diagnosis import kinds
    from dehaze_zoo.data.layouts import layout_of

    expected = f" of {diagnosis.expected:,} published" if diagnosis.expected else ""
    lines = [layout_of(diagnosis.set).title, f"layout   {diagnosis.layout}", f"pairs    {diagnosis.pairs:,}{expected}"]
    for kind, found in kinds(diagnosis.problems).items():
        lines.append(f"{kind}: {len(found):,}")
        lines += [f"  {problem.file}\n    {problem.what_to_do}" for problem in found[:shown]]
        lines += [f"  ... and {len(found) - shown:,} more, in report.json"] if len(found) > shown else []
    if not diagnosis.problems:
        verdict = "Whole and sound: nothing to do."
    elif diagnosis.sound:
        verdict = "What is here is sound. It is not all of the published set: see above where the rest is."
    else:
        bad = ", ".join(f"{len(found):,} {kind}" for kind, found in kinds(diagnosis.problems).items() if kind != "incomplete")
        verdict = f"To do: mend what is named above ({bad}), then ask the doctor again."
    return "\n".join([*lines, verdict])


if __name__ == "__main__":
    launch("doctor", job)
