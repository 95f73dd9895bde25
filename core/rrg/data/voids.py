"""What programs write where there is no text: the one rule by which importers, data folders and predictions read it."""

import re

_NONE = re.compile(r"none|null|nil", re.IGNORECASE)
_VOID = re.compile(
    rf"[\W_]*+(?:(?:nan|nat|n[\W_]*a|undefined|1[\W_]*(?:ind|qnan)|{_NONE.pattern})(?![^\W_])[\W_]*+)*+", re.IGNORECASE
)


def stated(text: str, comparison: bool = False) -> str:
    """`text` as it is, or "" where it states nothing: no letter or digit, or only words for a missing value.

    Such are NaN, NaT, None, null, NA, N/A and #N/A, in any case and with any marks. A sentence that has one of them
    ("None of the ribs is broken.") has other words too.

    comparison: "None." and "___" answer what a study was compared with (nothing; something whose date was removed), so
    they stay.
    """
    if not _VOID.fullmatch(text):
        return text
    return text if comparison and (_NONE.search(text) or "__" in text) else ""


def void(text: str) -> str:
    """For messages: what stands where nothing is stated, such as " ('nan')"; empty where nothing stands."""
    return f" ({text.strip()[:40]!r})" if text.strip() else ""
