"""Serve a web page for a model: python -m focalnet_jax.demo --checkpoint PATH [--port 7860].

For an image dropped on it, the page shows the prediction, the class activations of a classifier, and the modulator and
gates of any block. Images are resized and cropped as in evaluation. The page can be opened only on this machine unless
--host is given, and loads nothing from other servers. Ctrl-C ends the server, and deletes all images.
"""

import os
import signal
import socket
import tempfile
import threading

_LARGEST = "100mb"  # largest file that can be uploaded


def main(arguments: list[str]) -> int:
    """Parses the flags and serves the page until it is interrupted."""
    from focalnet_jax.data.decode import LARGEST_SIDE
    from focalnet_jax.programs.flags import (
        add_checkpoint_flag,
        add_classes_flag,
        add_weights_flags,
        check_number,
        make_parser,
        parse_size,
    )

    parser = make_parser("demo", __doc__)
    add_checkpoint_flag(parser)
    add_weights_flags(parser)
    add_classes_flag(parser)
    parser.add_argument(
        "--image-size", metavar="S|HxW", help="input size in pixels (default: stored with the weights, or 224)"
    )
    parser.add_argument(
        "--topk", type=int, default=5, metavar="K", help="number of classes to show (default: %(default)s)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 admits other machines (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="port; 0 for any free port (default: %(default)s)"
    )
    flags = parser.parse_args(arguments)
    check_number("--topk", flags.topk, 1)
    size = parse_size("--image-size", flags.image_size, LARGEST_SIDE)
    port = _free_port(flags.host, flags.port)
    with tempfile.TemporaryDirectory() as uploads:
        _import_gradio(uploads)
        from focalnet_jax.convert.recognise import check_options
        from focalnet_jax.inference import load_predictor

        given = dict(image_size=size, options=check_options(flags.option), which=flags.weights, classes=flags.classes)
        predictor = load_predictor(flags.checkpoint, flags.model, **given)
        predictor.check_head(flags.checkpoint)
        _serve(predictor, flags.checkpoint, flags.topk, flags.host, port)
    return 0


def _import_gradio(uploads: str) -> None:
    """Imports gradio with `uploads` as the folder of its files, without telemetry and without a proxy.

    Raises:
      UserError: gradio or matplotlib is not installed.
    """
    from focalnet_jax.errors import UserError

    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*"}
    os.environ["GRADIO_TEMP_DIR"] = uploads
    try:
        import gradio  # noqa: F401 - serves the page
        import matplotlib  # noqa: F401 - provides the colour maps
    except ImportError as error:
        raise UserError("the page needs gradio and matplotlib: pip install 'focalnet_jax[demo]'") from error


def _free_port(host: str, port: int) -> int:
    """Returns `port`, or a free port if it is 0.

    Raises:
      UserError: the page cannot be served at this host and port.
    """
    from focalnet_jax.errors import UserError

    try:
        with socket.create_server((host, port)) as listener:
            return listener.getsockname()[1]
    except OverflowError as error:
        raise UserError(f"--port {port}: expected 0 to 65535") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(
            f"cannot serve at --host {host} --port {port}: {reason}; choose another host or port"
        ) from error


def _serve(predictor, source: str, topk: int, host: str, port: int) -> None:
    import numpy as np

    from focalnet_jax.demo.page import build
    from focalnet_jax.demo.panels import explain
    from focalnet_jax.system.signals import handled

    explain(predictor, np.zeros((8, 8, 3), np.uint8), topk)  # compiles now, so that the first visitor does not wait
    page = build(predictor, source, topk)
    with handled([signal.SIGTERM], signal.default_int_handler):  # SIGTERM ends the server like Ctrl-C
        _wait_for_visitors(page, source, host, port)


def _wait_for_visitors(page, source: str, host: str, port: int) -> None:
    import gradio

    from focalnet_jax.demo.page import STYLE

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            max_file_size=_LARGEST,
            enable_monitoring=False,
            mcp_server=False,
            run_history=False,
            ssr_mode=False,
            pwa=False,
            footer_links=[],
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=STYLE,
        )
        print(f"{address} serves {source}; Ctrl-C stops it", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("ended", flush=True)
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C while libraries load
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
