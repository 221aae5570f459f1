"""The benchmark's dashboard in W&B as code: a saved workspace and a report; a spec file of each where nobody is logged in."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehaze_zoo.benchmark.board import COSTS
from dehaze_zoo.errors import UsageError
from dehaze_zoo.inference.reporting import write_json
from dehaze_zoo.outcome import Outcome

if TYPE_CHECKING:
    from omegaconf import DictConfig

TITLE = "Dehazing benchmark"


def dashboard(cfg: DictConfig, run_dir: Path) -> Outcome:
    """The verb: makes both in ``cfg.entity``/``cfg.project`` when logged in; always writes workspace.json and report.json into ``run_dir``.

    Raises UsageError where wandb-workspaces is missing, or the server refuses.
    """
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise UsageError("dashboard needs a package that is not installed: pip install 'dehaze-zoo[dashboard]'") from error
    offline = os.environ.get("WANDB_MODE") == "offline" or not wandb.login(prompt=False, verify=False)
    entity = cfg.entity or ("" if offline else wandb.Api().default_entity) or ""
    workspace, report = make_workspace(entity, cfg.project), make_report(entity, cfg.project, online=not offline)
    for name, view in (("workspace", workspace), ("report", report)):
        write_json(run_dir / f"{name}.json", json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True)))
    if offline:
        print(f"not logged in to W&B: nothing was created; what would be is in {run_dir}. After `wandb login`, run this again.")
        return Outcome()
    try:
        print(f"workspace: {workspace.save().url}\nreport: {report.save().url}")
    except Exception as error:  # whatever the server or the way to it says
        raise UsageError(f"W&B did not take the dashboard for {entity}/{cfg.project}: {str(error).splitlines()[0]}") from error
    return Outcome()


def make_workspace(entity: str, project: str) -> Any:
    """The leaderboard and the pictures on top, plots below, training curves of the same project last."""
    wr, ws = _reports(), import_module("wandb_workspaces.workspaces")
    curves = [wr.LinePlot(title=key, x="epoch", y=[key]) for key in ("val/psnr", "val/ssim", "train/loss")]
    sections = [
        ws.Section(
            name="Leaderboard",
            panels=[
                _whole(wr.WeavePanelSummaryTable(table_name="leaderboard")),
                _whole(wr.WeavePanelSummaryTable(table_name="comparisons")),
            ],
        ),
        ws.Section(name="Pictures", panels=[_whole(wr.WeavePanelSummaryTable(table_name="per_image"))]),
        ws.Section(name="Cost and quality", panels=[_scatter(cost) for cost in COSTS]),
        ws.Section(name="Trainings", panels=curves),
    ]
    for section in sections:
        section.is_open = True
    return ws.Workspace(entity=entity, project=project, name=TITLE, sections=sections)


def make_report(entity: str, project: str, online: bool) -> Any:
    """The same as a page to hand around, with what the figures mean; the runs of job type benchmark."""
    wr = _reports()
    # A set of runs that names its project is looked up on the server at once; without, it is the report's own project.
    runs = wr.Runset(entity=entity, project=project, name="benchmarks") if online else wr.Runset(name="benchmarks")
    return wr.Report(
        entity=entity,
        project=project,
        title=TITLE,
        description="Made by python -m dehaze_zoo.dashboard.",
        blocks=[
            wr.P(text="Means over images with 95 % bootstrap intervals, whole scenes drawn. Methods share a rank unless a Holm-corrected"
                 " Wilcoxon test over scenes (5 %; a t-test over few) tells them apart."
                 " Every figure holds for the protocol and the images it stands beside. Rows whose column decoder begins with"
                 " another hash were read by another decoder: its pixels differ, and so may the figures."),
            wr.H1(text="Leaderboard"),
            wr.PanelGrid(runsets=[runs], panels=[_whole(wr.WeavePanelSummaryTable(table_name="leaderboard"))]),
            wr.H1(text="Paired differences"),
            wr.PanelGrid(runsets=[runs], panels=[_whole(wr.WeavePanelSummaryTable(table_name="comparisons"))]),
            wr.H1(text="Image by image"),
            wr.PanelGrid(runsets=[runs], panels=[_whole(wr.WeavePanelSummaryTable(table_name="per_image"))]),
        ],
    )  # fmt: skip


def _reports() -> Any:
    return import_module("wandb_workspaces.reports.v2")  # whose names its types do not tell


def _scatter(cost: str) -> Any:
    """The plot that tracking.py logs."""
    return _reports().CustomChart(
        query={"summaryTable": {"tableKey": f"psnr_against_{cost}_table"}},
        chart_name="wandb/scatter/v0",
        chart_fields={"x": cost, "y": "psnr"},
        chart_strings={"title": f"PSNR against {cost}"},
    )


def _whole(panel: Any) -> Any:
    """Over the full width."""
    panel.layout = _reports().Layout(w=24, h=12)
    return panel
