"""The leaderboard as CSV, Markdown, LaTeX, Parquet and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from dehaze_zoo.benchmark.board import BLIND, COSTS, FIRST_COLUMNS, Board
from dehaze_zoo.data.images import write_aside
from dehaze_zoo.files import written_aside
from dehaze_zoo.inference.reporting import write_csv
from dehaze_zoo.metrics.catalogue import METRICS, Metric
from dehaze_zoo.metrics.protocols import PROTOCOLS

Row = Mapping[str, Any]

FRONT = "* on the Pareto front of this cost and the first figure: nothing cheaper is better"
DECODER = "‡ read by another decoder, whose pixels differ, and not ranked"


def write_tables(folder: Path, board: Board) -> None:
    """leaderboard.csv, .md and .tex, comparisons.csv and per_image.parquet, each written aside and renamed."""
    write_csv(folder / "leaderboard.csv", [{column: _plain(row.get(column)) for column in columns(board.rows)} for row in board.rows])
    write_csv(folder / "comparisons.csv", board.comparisons)
    write_aside(folder / "leaderboard.md", markdown(board).encode())
    write_aside(folder / "leaderboard.tex", latex(board).encode())
    write_parquet(folder / "per_image.parquet", board.per_image)


def columns(rows: Sequence[Row]) -> list[str]:
    """FIRST_COLUMNS, then all others in the order in which they turn up."""
    return list(dict.fromkeys([*FIRST_COLUMNS, *(key for row in rows for key in row)]))


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """A row a picture, protocol and training: model, data, protocol, seed, image, scene, density, the decoder's probe and the metrics."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("model", "data", "protocol", "image", "scene", "decoder")
    names = list(dict.fromkeys([*texts, "seed", "density", *(key for row in rows for key in row)]))
    kinds = {name: pa.string() if name in texts else pa.int64() if name == "seed" else pa.float64() for name in names}
    table = pa.table({name: pa.array([row.get(name) for row in rows], kinds[name]) for name in names})
    with written_aside(path) as aside:
        pq.write_table(table, aside)


def groups(board: Board) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(data, protocol, rows), a table each."""
    return [(data, protocol, list(rows)) for (data, protocol), rows in groupby(board.rows, key=lambda row: (row["data"], row["protocol"]))]


def shown_metrics(rows: Sequence[Row]) -> list[Metric]:
    return [metric for metric in METRICS.values() if any(row.get(metric.name) is not None for row in rows)]


def terminal(board: Board) -> list[Table]:
    """Tables for the terminal, one a set and protocol; the files have more columns."""
    sheets = []
    for data, protocol, rows in groups(board):
        sheet = Table(title=f"{data}, protocol {protocol}, {_images(rows)}", caption="\n".join(_footnotes(rows)) or None)
        titles = _titles(rows)
        kept = [n for n, title in enumerate(titles) if not title.startswith(("published", "MACs", "parameters"))]  # what 80 columns hold
        for n in kept:
            sheet.add_column(titles[n], justify="left" if n == 1 else "right")
        for row in rows:
            cells = _cells(row, rows)
            sheet.add_row(*(cells[n].partition(" [")[0] if titles[n].startswith("latency") else cells[n] for n in kept))
        sheets.append(sheet)
    for data, titles, lines in protocol_tables(board):
        sheet = Table(*titles, title=f"{data}, the same pictures under each protocol")
        for line in lines:
            sheet.add_row(*line)
        sheets.append(sheet)
    return sheets


def protocol_tables(board: Board) -> list[tuple[str, list[str], list[list[str]]]]:
    """(data, titles, lines) of PSNR and SSIM by protocol and how far they lie apart, for sets that were judged by more than one."""
    found = []
    for data in dict.fromkeys(row["data"] for row in board.rows):
        own = [row for row in board.rows if row["data"] == data and row["protocol"] != BLIND]
        names = list(dict.fromkeys(row["protocol"] for row in own))
        if len(names) < 2:
            continue
        lines = []
        for model in dict.fromkeys(row["model"] for row in own):
            line = [model]
            for metric in (METRICS["psnr"], METRICS["ssim"]):
                values = [
                    next((row[metric.name] for row in own if row["model"] == model and row["protocol"] == name), None) for name in names
                ]
                known = [value for value in values if value is not None]
                line += [*(_number(value, metric.digits) for value in values), _number(max(known) - min(known), metric.digits)]
            lines.append(line)
        titles = [f"{title}, {name}" for title in ("PSNR", "SSIM") for name in (*names, "apart")]
        found.append((data, ["model", *titles], lines))
    return found


def markdown(board: Board) -> str:
    parts = ["# Leaderboard", *_notes(board)]
    for data, protocol, rows in groups(board):
        titles = _titles(rows)
        parts.append(f"## {data}, protocol {protocol}, {_images(rows)}")
        lines = ["| " + " | ".join(titles) + " |", "|" + "|".join("---" if n == 1 else "--:" for n in range(len(titles))) + "|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row, rows)) + " |" for row in rows]
        parts.append("\n".join(lines))
        if differences := _differences(board, data, protocol):
            parts.append("\n".join(["Paired differences:", "", *(f"- {line}" for line in differences)]))
    for data, titles, body in protocol_tables(board):
        parts.append(f"## {data}, the same pictures under each protocol")
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in [titles, ["---", *["--:"] * (len(titles) - 1)], *body]))
    return "\n\n".join(parts) + "\n"


def latex(board: Board) -> str:
    """booktabs tables, to be \\input."""
    parts = ["% \\usepackage{booktabs}"]
    for data, protocol, rows in groups(board):
        titles = _titles(rows)
        caption = ". ".join([f"{data}, protocol {protocol}, {_images(rows)}", _description(protocol), *_footnotes(rows)])
        caption += "." if _footnotes(rows) else ""
        head = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(caption)}}}", rf"\begin{{tabular}}{{rl{'r' * (len(titles) - 2)}}}"]
        body = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (titles, *(_cells(row, rows) for row in rows))]
        parts.append("\n".join([*head, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _titles(rows: Sequence[Row]) -> list[str]:
    titles = ["rank", "model"]
    for metric in shown_metrics(rows):
        arrow = "↑" if metric.higher_is_better else "↓"
        titles.append(f"{metric.title}{', ' + metric.unit if metric.unit else ''} {arrow}")
        if metric.name == _first(rows):
            titles.append("95 % interval")
            if _has(rows, "seeds"):
                titles.append("seeds (sd)")
    if _has(rows, "published_psnr"):
        titles.append("published PSNR (gap)")
    if _has(rows, "parameters"):
        sides = {row["latency_side"] for row in rows if row.get("latency_side")}
        titles += ["parameters", "MACs 10⁹ (1024³)", f"latency {'/'.join(map(str, sorted(sides)))}², ms [quartiles]", "peak, MiB"]
    return titles


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    short = "" if row["images"] == row["of_images"] else f" ({row['images']} of {row['of_images']} images)"
    mark = " ‡" if row.get("decoder_differs") else ""
    cells = [
        "–" if row["rank"] is None else str(row["rank"]),
        row["model"] + mark + (" (pictures only)" if row["kind"] == "pictures only" else "") + short,
    ]
    for metric in shown_metrics(rows):
        cells.append(_number(row.get(metric.name), metric.digits))
        if metric.name == _first(rows):
            low, high = row.get(f"{metric.name}_low"), row.get(f"{metric.name}_high")
            cells.append("–" if low is None else f"[{low:.{metric.digits}f}, {high:.{metric.digits}f}]")
            if _has(rows, "seeds"):
                cells.append(_seeds(row, metric))
    if _has(rows, "published_psnr"):
        other = row.get("published_psnr")
        part = "" if row["images"] == row.get("published_images") else "†"
        cells.append("–" if other is None else f"{other:.2f} ({row['gap_psnr']:+.2f}{part})")
    if _has(rows, "parameters"):
        count, macs = row.get("parameters"), row.get("macs")
        marks = {cost: "*" if cost in row["pareto"].split() else "" for cost in COSTS}
        cells.append("–" if count is None else f"{count:,}{marks['parameters']}")
        cells.append("–" if macs is None else f"{macs / 1e9:.2f}{marks['macs']} ({macs / 1024**3:.2f})")
        latency = row.get("latency_ms")
        quartiles = "" if latency is None else f" [{row['latency_q1_ms']:.1f}, {row['latency_q3_ms']:.1f}]"
        cells.append("–" if latency is None else f"{latency:.1f}{marks['latency_ms']}{quartiles}")
        cells.append(_number(row.get("peak_mib"), 0))
    return cells


def _notes(board: Board) -> list[str]:
    devices = sorted({str(row["device"]) for row in board.rows if row.get("device")})
    protocols = dict.fromkeys(row["protocol"] for row in board.rows)
    lines = [f"- {name}: {_description(name)}." for name in protocols]
    lines += [
        "- Intervals: 95 % percentile bootstrap of the mean over images, whole scenes drawn. Methods are ranked by the first figure and"
        " share a rank unless one is better by"
        " Wilcoxon's signed-rank test over the scenes' mean differences, Holm-corrected over all pairs of the table (5 %);"
        " where so few scenes could not pass it, whatever they show, by the paired t-test instead.",
        "- MACs: multiply-adds of convolutions and matrix products at 256×256, in 10⁹ (and in 1024³, as the gUNet paper has them); FLOPs"
        " are twice as many.",
    ]
    if _has(board.rows, "seeds"):
        lines.append("- Seeds: trainings that the figure is the mean of, and the standard deviation between their means.")
    if devices:
        lines.append(
            f"- Latency: median of warm runs, batch 1, float32, on {'; '.join(devices)}. Peak: the most that its tensors hold at once."
        )
    if _on_a_front(board.rows):
        lines.append(f"- \\{FRONT}.")  # no list in the list
    lines += [f"- {line}." for line in _footnotes(board.rows) if line != FRONT]
    if any(row.get("published_psnr") is not None for row in board.rows):
        lines.append(
            "- Published: as the gUNet paper's table has it for the whole test set, not measured here nor, for all that is known, read by"
            " the same decoder; gap = measured - published;"
            " † measured on another number of images, so the gap says little."
        )
    return ["\n".join(lines)]


def _description(protocol: str) -> str:
    return "no clear picture needed" if protocol == BLIND else PROTOCOLS[protocol].description


def _differences(board: Board, data: str, protocol: str) -> list[str]:
    lines = []
    for c in board.comparisons:
        if (c["data"], c["protocol"]) == (data, protocol):
            metric = METRICS[c["metric"]]
            interval = "" if c["low"] is None else f" [{c['low']:+.{metric.digits}f}, {c['high']:+.{metric.digits}f}]"
            verdict = ("" if c["differ"] else ", no difference shown") + (" ‡" if c["decoders_differ"] else "")
            lines.append(
                f"{c['a']} - {c['b']}: {c['difference']:+.{metric.digits}f} {metric.unit}{interval}, p = {c['p_holm']:.2g}"
                f" ({c['images']} images, {c['scenes']} scenes){verdict}"
            )
    return lines


def _footnotes(rows: Sequence[Row]) -> list[str]:
    """What the marks in these rows mean."""
    apart = {row["model"]: row["decoder_differs"] for row in rows if row.get("decoder_differs")}
    return [*([FRONT] if _on_a_front(rows) else []), *([f"{DECODER}: {_said(apart)}"] if apart else [])]


def _said(apart: Mapping[str, str]) -> str:
    """Each difference once, after the models that have it."""
    return "; ".join(
        f"{', '.join(model for model, own in apart.items() if own == words)}: {words}" for words in dict.fromkeys(apart.values())
    )


def _images(rows: Sequence[Row]) -> str:
    return f"{max(row['of_images'] for row in rows)} images of {max(row['scenes'] for row in rows)} scenes"


def _first(rows: Sequence[Row]) -> str:
    return shown_metrics(rows)[0].name


def _on_a_front(rows: Sequence[Row]) -> bool:
    return any(row["pareto"] for row in rows)


def _has(rows: Sequence[Row], key: str) -> bool:
    return any(row.get(key) is not None for row in rows)


def _seeds(row: Row, metric: Metric) -> str:
    """How many trainings the figure is the mean of, and the standard deviation between their means."""
    if row.get("seeds") is None:
        return "–"
    of = "" if row["seeds"] == row["of_seeds"] else f" of {row['of_seeds']}"
    return f"{row['seeds']}{of} ({_number(row.get(f'{metric.name}_sd_of_seeds'), metric.digits)})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _plain(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _escaped(text: str) -> str:
    for sign in "&%#_$":
        text = text.replace(sign, "\\" + sign)
    for sign, command in (
        ("↑", r"$\uparrow$"),
        ("↓", r"$\downarrow$"),
        ("²", "$^2$"),
        ("⁹", "$^9$"),
        ("³", "$^3$"),
        ("×", r"$\times$"),
        ("–", "--"),
    ):
        text = text.replace(sign, command)
    return text
