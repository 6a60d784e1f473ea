"""A page that shows what a model sees in a picture: upload, overlay, table of classes. It needs gradio, and nothing from the network."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from segzoo.errors import SegZooError, first_line
from segzoo.images.drawing import class_areas, default_palette, label_image, overlay
from segzoo.images.reading import in_colour, open_picture
from segzoo.inference import InferenceSettings, Predictor
from segzoo.text import html_text, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradio import Blocks
    from transformers import BaseImageProcessor, PreTrainedModel

SHOWN_SIDE = 1600
"""Longest side of the overlay in pixels; larger pictures are labelled whole, and shown smaller."""

OPACITY = 0.55
_MOST_IN_NAME = 60

CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
footer { display: none !important; }
.segzoo-areas { max-height: 28rem; overflow-y: auto; }
#picture img, #overlay img { width: 100%; height: 100%; object-fit: contain; }
.segzoo-areas :is(table, thead, tbody, tr, th, td) { border: none !important; }
.segzoo-areas table { width: 100%; border-collapse: collapse; font-size: 0.95rem; }
.segzoo-areas table th { text-align: left; font-weight: 600; padding: 0.35rem 0.5rem; border-bottom: 2px solid var(--border-color-primary) !important; }
.segzoo-areas table td { padding: 0.35rem 0.5rem; border-bottom: 1px solid var(--border-color-primary) !important; }
.segzoo-areas .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.segzoo-areas .swatch { display: inline-block; width: 1em; height: 1em; border-radius: 0.2em; border: 1px solid #8888; vertical-align: -0.12em; }
.segzoo-areas .bar { height: 0.5rem; border-radius: 0.25rem; min-width: 2px; }
.segzoo-areas .none { color: var(--body-text-color-subdued); }
"""


@dataclass(frozen=True)
class Labelled:
    """A picture and what the model sees in it.

    Args:
        shown: the picture at the size that is shown, uint8 (height, width, 3).
        shown_labels: class ids of its pixels, (height, width).
        labels: class ids at the picture's own size, (height, width).
    """

    shown: np.ndarray
    shown_labels: np.ndarray
    labels: np.ndarray


class Demo:
    """What the page calls.

    Args:
        model: any semantic-segmentation model, in eval mode.
        processor: its image processor.
        name: what the model is called.
    """

    def __init__(self, model: PreTrainedModel, processor: BaseImageProcessor, name: str):
        from segzoo.configuration_segzoo import class_names, input_channels

        config = model.config
        self.name = name
        self.names = class_names(config)
        self.palette = getattr(config, "palette", None) or default_palette(config.num_labels)
        self.num_channels = input_channels(config)
        self.settings = InferenceSettings.of_model(model, processor)
        self.protocol = self.settings.describe(processor)
        self.predictor = Predictor(model, processor, self.settings)

    def label(self, path: str) -> Labelled:
        """Label the picture in a file.

        Raises:
            SegZooError: it is no picture, or one with other channels than the model takes.
        """
        image = open_picture(path, name="the picture").grey_levels(self.num_channels)
        labels = self.predictor.label_map(image, image.shape[:2]).cpu().numpy()
        shown = in_colour(image)
        step = -(-max(labels.shape) // SHOWN_SIDE)
        small = shown if step == 1 else np.asarray(Image.fromarray(shown).reduce(step))
        return Labelled(small, labels[::step, ::step], labels)

    def overlay(self, found: Labelled, opacity: float) -> Image.Image:
        """The picture under its classes' colours.

        Args:
            found: what `label` returned.
            opacity: share of the colours, 0 to 1.
        """
        return overlay(found.shown, found.shown_labels, self.palette, opacity)

    def label_image(self, found: Labelled) -> Image.Image:
        """The class ids as a PNG has them, at the picture's own size."""
        return label_image(found.labels, self.palette)

    def table(self, found: Labelled) -> str:
        """The classes that occur, largest first, with colours and areas, as HTML."""
        areas = class_areas(found.labels, len(self.names))
        largest = max((area["fraction"] for area in areas), default=1.0)
        rows = []
        for area in areas:
            colour = "rgb({}, {}, {})".format(*(int(value) for value in self.palette[area["id"]]))
            name = html_text(shorten(str(self.names[area["id"]]), _MOST_IN_NAME))
            width = 100 * area["fraction"] / largest
            share = f"{area['fraction']:.1%}" if area["fraction"] >= 0.0005 else "&lt; 0.1%"
            rows.append(
                f'<tr><td><span class="swatch" style="background: {colour}"></span></td><td>{name}</td>'
                f'<td style="width: 35%"><div class="bar" style="width: {width:.1f}%; background: {colour}"></div></td>'
                f'<td class="number">{share}</td><td class="number">{area["pixels"]:,}</td></tr>'
            )
        body = "".join(rows) or '<tr><td class="none" colspan="5">no class</td></tr>'
        head = '<th></th><th>class</th><th></th><th class="number">area</th><th class="number">pixels</th>'
        return f'<div class="segzoo-areas"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def build_page(demo: Demo) -> Blocks:
    """The page of a demo; ``serve`` opens it.

    Raises:
        SegZooError: gradio is not installed.
    """
    gradio = _gradio()
    with gradio.Blocks(title=f"segzoo: {demo.name}", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        kept = gradio.State(time_to_live=3600)
        gradio.HTML(
            f"<h1>{html_text(demo.name)}</h1><p>{len(demo.names)} classes; {html_text(demo.protocol)}</p>",
            elem_id="title",
        )
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(
                    type="filepath",
                    label="Picture",
                    sources=["upload", "clipboard"],
                    buttons=["fullscreen"],
                    elem_id="picture",
                    height=420,
                )
                # The file as it was uploaded: gradio would open it, and print a traceback for what is no picture.
                picture.preprocess = lambda upload: upload and upload.path
                opacity = gradio.Slider(0, 1, OPACITY, step=0.05, label="Opacity of the colours", elem_id="opacity")
            with gradio.Column():
                shown = gradio.Image(
                    label="Classes",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                    elem_id="overlay",
                    height=420,
                )
                download = gradio.DownloadButton("Class ids as PNG", visible=False, elem_id="download")
        areas = gradio.HTML(elem_id="areas")

        def changed(path: str | None, strength: float) -> Sequence[Any]:
            if path is None:
                return None, None, "", gradio.update(visible=False)
            try:
                found = demo.label(path)
            except (SegZooError, RuntimeError, MemoryError) as error:
                raise gradio.Error(first_line(error), duration=None, print_exception=False) from error
            ids = os.path.splitext(path)[0] + "_ids.png"
            demo.label_image(found).save(ids)
            return found, demo.overlay(found, strength), demo.table(found), gradio.update(value=ids, visible=True)

        def moved(found: Labelled | None, strength: float) -> Image.Image | None:
            return None if found is None else demo.overlay(found, strength)

        picture.change(changed, [picture, opacity], [kept, shown, areas, download], api_visibility="private")
        opacity.release(moved, [kept, opacity], shown, show_progress="hidden", api_visibility="private")
    return page


def check_address(host: str, port: int | None) -> None:
    """Check that a page can be opened at an address; call this before loading a model.

    Args:
        host: address or name to listen at.
        port: port; None: any.

    Raises:
        SegZooError: this machine has no such address, or the port is taken or not allowed.
    """
    if port is not None and not 0 < port < 65536:
        raise SegZooError(f"--port {port}: ports are 1 to 65535")
    for number in [0] if port is None else [0, port]:
        try:
            _try_to_listen(host.strip("[]"), number)
        except (OSError, UnicodeError) as error:  # names that are none are the second
            if number:
                raise SegZooError(
                    f"--port {port}: it cannot be opened ({first_line(error)}); choose another one"
                ) from error
            raise SegZooError(
                f"--host {host}: this machine cannot listen there ({first_line(error)}); give an address of its own, "
                "127.0.0.1 for this machine alone, or 0.0.0.0 for all of them"
            ) from error


def _try_to_listen(host: str, port: int) -> None:
    failure: OSError | None = None
    for family, *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return socket.create_server(place, family=family).close()
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def serve(
    page: Blocks, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False, wait: bool = True
) -> str:
    """Open a page.

    Args:
        page: what `build_page` returned.
        host: address to listen at; "0.0.0.0" for other machines.
        port: port; None: the first free one from 7860 on.
        share: make a public link through gradio's servers.
        wait: return when the user interrupts; False: at once, with the server running.

    Returns:
        The address.

    Raises:
        SegZooError: there is no such address, or the port is taken or not allowed.
    """
    check_address(host, port)  # gradio tries a hundred ports in vain
    gradio = _gradio()
    theme = gradio.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    try:
        _, local, public = page.queue(default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            show_error=True,
            footer_links=[],
            ssr_mode=False,
            theme=theme,
            css=CSS,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise SegZooError(
            f"--port {port or 7860}: it cannot be opened ({first_line(error)}); choose another one"
        ) from error
    if wait:
        from segzoo.progress import print_text

        print_text(f"{public or local}\nCtrl-C ends it")
        page.block_thread()
    return public or local


def _gradio() -> Any:
    """The package, with its reports to its makers off, and with a folder for uploads that goes when the process ends.

    Raises:
        SegZooError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="segzoo_demo_")
        atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    try:
        import gradio
    except ImportError as error:
        raise SegZooError('segzoo demo needs gradio, which is not installed: pip install "segzoo[demo]"') from error
    return gradio
