"""One HTML file that needs nothing else, the frame of every page.

A policy in the page's head forbids scripts and everything from elsewhere; the style sheet is allowed by its hash.
"""

import base64
import hashlib
from importlib.resources import files

from rrg.report.markup import plain

BEGINS = "<!doctype html>\n<html"


def whole(title: str, body: str) -> str:
    """The document around `body`, which is HTML already."""
    style = files("rrg.report").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'{BEGINS} lang="en" dir="ltr"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,"><title>{plain(title)}</title>\n'
        f"<style>{style}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
