"""cilmp serve RUN [RUN ...]: a page on this machine that answers images."""

import contextlib
import secrets
import socket
import threading

from cilmp.experiments.commands import parser_of
from dassl.utils.errors import ConfigError, UserError

from .predict import add_places

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DESCRIPTION = """A page on this machine: drop an image (DICOM too), see what finished runs or bundles answer, and why.

    cilmp serve output/few_shot/BUSI/CILMP/.../seed1/train_all my_bundle
    cilmp serve my_bundle --among ~/data/BUSI/images   # similar training images, too
    cilmp serve my_bundle --host 0.0.0.0                   # for others, too: then with a token, which is printed

Nothing is sent anywhere, no upload is kept. It is no medical device.
"""


def parser():
    p = parser_of("serve", DESCRIPTION)
    p.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs, or bundles; several side by side")
    p.add_argument("--host", default="127.0.0.1", help="whom to listen to (default: this machine alone)")
    p.add_argument("--port", type=int, default=7860, help="where it listens")
    p.add_argument("--token", default="", help="password of user cilmp (default: a new one where others can ask)")
    p.add_argument("--among", nargs="+", default=[], metavar="FOLDER|CSV",
                   help="the training images, to show those nearest to an image")  # fmt: skip
    p.add_argument("--api", action="store_true", help="print how a program asks, and go")
    add_places(p)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    address = f"http://{in_url(args.host)}:{args.port}"
    if args.api:
        from .serve_api import HOW

        print(HOW.format(address=address))
        return 0
    check_port(args.host, args.port)
    token = args.token or ("" if args.host in LOOPBACK else secrets.token_urlsafe(12))

    from .model import load
    from .serve import Among, gradio, served

    gradio()  # before runs are loaded
    models = [load(run, args.device, args.weights, args.plugin) for run in args.runs]
    with served(models, args.host, args.port, token, Among.read(models, args.among)):
        if token:
            print(f"user cilmp, password {token}")
        print(f"{address} - stop with Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


def in_url(host):
    """A host as it stands in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def check_port(host, port):
    """UserError where the port can't be had.

    Raises:
        ConfigError: no port.
    """
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port}: give a number from 1 to 65535")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"{host}:{port} can't be listened to ({error.strerror}): name another --port or "
                            f"--host") from None  # fmt: skip
