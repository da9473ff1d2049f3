"""What the pages share: colours for light and dark, and the policy that lets only ours in."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

#: WCAG AA: a text has 4.5 times the contrast of what is behind it, for every pair in PAIRS.
PALETTES = {
    "light": {
        "page": "#e9edf2",
        "card": "#ffffff",
        "text": "#10151c",
        "muted": "#465161",
        "line": "#c3ccd8",
        "good": "#0a6b35",
        "bad": "#b3121d",
        "bad-fill": "#b3121d",
        "on-bad": "#ffffff",
        "warn-fill": "#ffc233",
        "on-warn": "#241a00",
    },
    "dark": {
        "page": "#0a0e13",
        "card": "#171d26",
        "text": "#f4f7fa",
        "muted": "#b3becb",
        "line": "#354051",
        "good": "#5fdc8f",
        "bad": "#ff8d91",
        "bad-fill": "#ff6468",
        "on-bad": "#1f0103",
        "warn-fill": "#ffc233",
        "on-warn": "#241a00",
    },
}
#: (text, behind it)
PAIRS = (
    ("text", "page"),
    ("text", "card"),
    ("muted", "page"),
    ("muted", "card"),
    ("good", "page"),
    ("good", "card"),
    ("bad", "page"),
    ("bad", "card"),
    ("on-bad", "bad-fill"),
    ("on-warn", "warn-fill"),
)


def _variables(theme: str) -> str:
    named = "".join(f"--{name}:{value};" for name, value in PALETTES[theme].items())
    return f"color-scheme:{theme};{named}"


COLOURS = f"""
:root{{{_variables("light")}}}
@media (prefers-color-scheme:dark){{:root{{{_variables("dark")}}}}}
:root[data-theme=light]{{{_variables("light")}}}
:root[data-theme=dark]{{{_variables("dark")}}}
*{{box-sizing:border-box;margin:0}}
body{{background:var(--page);color:var(--text);font-family:system-ui,"Segoe UI",Roboto,"Noto Sans",\
"DejaVu Sans",sans-serif}}
"""


def static(name: str) -> str:
    """Return a file beside this one, which the pages carry in themselves."""
    return (Path(__file__).parent / "static" / name).read_text(encoding="utf-8")


def policy(style: str, script: str = "") -> str:
    """Return a Content-Security-Policy: this style, this script, and questions to ourselves."""
    rules = ["default-src 'none'", "img-src data:", f"style-src 'sha256-{digest(style)}'"]
    if script:
        rules += [f"script-src 'sha256-{digest(script)}'", "connect-src 'self'"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])


def digest(text: str) -> str:
    """Return the SHA-256 in Base64."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
