"""python -m dehaze_zoo.app: a page in the browser to try it on a picture (checkpoints.ridcp=FILE port=7860; the extra ``app``)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehaze_zoo.cli import Outcome, launch
from dehaze_zoo.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

TITLE = "dehaze_zoo: a clear picture from a hazy one"


def choices(checkpoints: Mapping[str, str]) -> dict[str, str | None]:
    """Models that can be used here, with their weights: given ones, those in the package, and dcp, which has none. The default first."""
    from dehaze_zoo.checkpoints.shipped import models_with_shipped_weights
    from dehaze_zoo.networks.registry import build_model

    for name in checkpoints:
        build_model(name)  # an unknown one is told before a page opens
    return {**dict.fromkeys(models_with_shipped_weights(), None), **checkpoints, "dcp": None}


def page(checkpoints: Mapping[str, str]) -> Any:
    """The page as gradio Blocks. Raises UsageError without gradio."""
    try:
        import gradio
    except ImportError as error:
        raise UsageError("the page needs gradio: pip install 'dehaze_zoo[app]' (or make demo-app)") from error
    from dehaze_zoo.networks.ridcp import PUBLISHED_ALPHA

    models = choices(checkpoints)
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gradio.Markdown(f"# {TITLE}\nDrop a picture, choose a network, slide between before and after. It stays on this machine.")
        with gradio.Row():
            with gradio.Column(scale=1):
                hazy = gradio.Image(type="pil", label="hazy picture", sources=["upload", "clipboard"], elem_id="hazy")
                model = gradio.Dropdown(list(models), value=next(iter(models)), label="network", elem_id="model")
                alpha = gradio.Slider(0, 40, PUBLISHED_ALPHA, step=0.25, label="alpha (RIDCP's strength)", visible=False, elem_id="alpha")
                button = gradio.Button("Dehaze", variant="primary", elem_id="dehaze")
                said = gradio.Markdown(elem_id="said")
            with gradio.Column(scale=2):
                both = gradio.ImageSlider(type="pil", label="before and after", interactive=False, elem_id="both", max_height=720)

        def restore(image: Any, name: str, strength: float) -> tuple[Any, str]:
            if image is None:
                return None, "First drop a picture on the left."
            start = time.perf_counter()
            try:
                clear = dehaze_with(image, name, models[name], strength)
            except UsageError as error:
                return None, f"**Not possible:** {error}"
            return (image.convert("RGB"), clear), f"{name}, {image.width} x {image.height} pixels, {time.perf_counter() - start:.1f} s"

        model.change(lambda name: gradio.Slider(visible=name.startswith("ridcp") and "vq" not in name), model, alpha)
        for event in (button.click, hazy.upload):
            event(restore, [hazy, model, alpha], [both, said])
    return blocks


def dehaze_with(image: Any, model: str, checkpoint: str | None, alpha: float) -> Any:
    """The restored PIL image, by ``dehaze`` or, for RIDCP, at this alpha. Raises UsageError."""
    from dehaze_zoo.data.images import from_pil, to_pil
    from dehaze_zoo.inference.alpha import use_alpha
    from dehaze_zoo.inference.dehaze import loaded
    from dehaze_zoo.inference.restore import choose_device
    from dehaze_zoo.inference.tiling import restore_picture, tile_side

    network = loaded(model, checkpoint, choose_device())
    if model in ("ridcp", "ridcp_nat"):
        use_alpha(network, alpha)
    picture = from_pil(image)
    return to_pil(restore_picture(network, picture, tile_side(network, picture.size)), like=picture).convert("RGB")


def job(cfg: DictConfig, run_dir: Path) -> Outcome:
    """Serves the page until it is interrupted."""
    blocks = page(dict(cfg.checkpoints))
    try:
        blocks.launch(server_name="127.0.0.1", server_port=cfg.port, share=False, quiet=False, show_error=True)
    except OSError as error:
        raise UsageError(f"port={cfg.port} cannot be had: {error}. Name another.") from error
    return Outcome()


if __name__ == "__main__":
    launch("app", job)
