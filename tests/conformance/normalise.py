"""Takes out of an answer what differs by nature: clocks, the server's version, the backend's name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from .wire import Answer

_LONG = 4000
# Keys of a model config that say which backend serves the model and from which file.
_BACKEND_KEYS = ("platform", "backend", "default_model_filename")


def _without(document: Any, names: tuple[str, ...]) -> Any:
    """A copy without the members `names` at the top."""
    return {key: value for key, value in document.items() if key not in names}


def _mask_config(document: Any) -> Any:
    """Drops the backend; over gRPC the config lies one level down."""
    if "config" in document:
        return {**document, "config": _without(document["config"], _BACKEND_KEYS)}
    return _without(document, _BACKEND_KEYS)


def _mask_stats(document: Any) -> Any:
    """Keeps counts and drops times; whether a time is zero is kept."""
    if isinstance(document, list):
        return [_mask_stats(item) for item in document]
    if not isinstance(document, dict):
        return document
    return {
        key: ("zero" if int(value) == 0 else "time")
        if key in ("ns", "last_inference") and not isinstance(value, dict)
        else _mask_stats(value)
        for key, value in document.items()
    }


def _mask_stats_names(document: Any) -> Any:
    """Keeps which models are listed, in which order."""
    return [[item["name"], item["version"]] for item in document.get("model_stats", [])]


def _index_entry(item: Answer) -> Answer:
    """One entry of the index. A reason's text is the backend's or the parser's.

    Of a model whose config cannot be read the real server gives the name only, we the reason too.
    """
    if "reason" not in item or item["reason"] == "unloaded":
        return item
    return {**item, "reason": "given"} if "version" in item else {"name": item["name"]}


def _mask_reasons(document: Any) -> Any:
    """The index without what may be worded differently."""
    return [_index_entry(item) for item in document] if isinstance(document, list) else document


_SERIES = re.compile(r'(\w+)\{([^}]*model="counted"[^}]*)\} (\d+)')


def _mask_metrics(text: str) -> Any:
    """Types of the inference families and the series of one model; order is free, durations are times."""
    types = dict(re.findall(r"# TYPE (nv_inference_\w+) (\w+)", text))
    series = {
        f"{name}{{{labels}}}": "time" if name.endswith("_us") else int(value)
        for name, labels, value in _SERIES.findall(text)
        if name in types
    }
    return {"types": dict(sorted(types.items())), "series": dict(sorted(series.items()))}


# The families that the conformance models make.
_OWN = re.compile(r"^(?:# (?:HELP|TYPE) )?conformance_\w+.*$", re.MULTILINE)


def _mask_own_metrics(text: str) -> Any:
    """What the metrics page says of families that models have made; the order of lines is free."""
    return sorted(_OWN.findall(text))


_MASKS: dict[str, Callable[[Any], Any]] = {
    "config": _mask_config,
    "stats": _mask_stats,
    "stats-names": _mask_stats_names,
    "server": lambda document: _without(document, ("version",)),
    "server-name": lambda document: _without(document, ("version", "extensions")),
    "reasons": _mask_reasons,
}


# The real server prints these names in the order of a hash table.
_GOT = re.compile(r"Got input\(s\) \[([^\]]*)\]")
_BATCH = re.compile(r"input '\w+' batch size does not match other inputs")


def _order_free(text: str) -> str:
    """An error text without the order of names that the real server's hash table gives it."""
    text = _GOT.sub(lambda match: f"Got input(s) [{','.join(sorted(match[1].split(',')))}]", text)
    return _BATCH.sub("input '*' batch size does not match other inputs", text)


# In a traceback: where a file lies, and the frames of the backend's own code.
_FOLDER = re.compile(r"[^\s\"']*/(?=\w+\.py\()")
_OWN_FRAMES = re.compile(r"  (?:triton_python_backend_utils\.py|<frozen importlib\.\w+>)\(\d+\): .*\n")


def _anywhere(document: Any, repository: str) -> Any:
    """A copy without what depends on where the model repository lies."""
    if isinstance(document, dict):
        return {key: _anywhere(value, repository) for key, value in document.items()}
    if isinstance(document, list):
        return [_anywhere(item, repository) for item in document]
    if isinstance(document, str):
        text = document.replace(repository, "<repository>") if repository else document
        # Tensors in base64 are long, and full of what looks like folders.
        return _OWN_FRAMES.sub("", _FOLDER.sub("", text)) if ".py(" in text or "<frozen " in text else text
    return document


def _events(text: str) -> Any:
    """Server-sent events as documents, or the text where one of them is not as it should be."""
    parts = text.split("\n\n")
    if parts.pop() or not all(part.startswith("data: ") for part in parts):
        return text
    try:
        return [json.loads(part.removeprefix("data: ")) for part in parts]
    except ValueError:
        return text


def _without_version(response: Any) -> Any:
    """A stream's response; of one that has no outputs the real server leaves the model's version out."""
    inner = response.get("infer_response")
    if inner is None or "outputs" in inner:
        return response
    return {**response, "infer_response": _without(inner, ("model_version",))}


def _id_of(response: Any) -> str:
    return str(response.get("infer_response", {}).get("id", ""))


def _apply(mask: str, document: Any) -> Any:
    """One document, masked; model metadata loses its platform under every mask."""
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return {**document, "error": _order_free(document["error"])}
    if isinstance(document, dict) and "platform" in document and "versions" in document:
        document = _without(document, ("platform",))
    return _MASKS[mask](document) if mask else document


def _comparable_headers(answer: Answer) -> dict[str, str]:
    """Headers that a client acts on: those of an answer with content."""
    headers = dict(answer.get("headers", {}))
    if answer["status"] != 200 or not any(key in answer for key in ("json", "text", "base64")):
        headers.pop("content-type", None)
    return headers


def _shorten(document: Any) -> Any:
    """A copy with a digest in place of each long text and list, to keep the records small."""
    if isinstance(document, dict):
        return {key: _shorten(value) for key, value in document.items()}
    if isinstance(document, (str, list)) and len(document) > _LONG:
        return f"sha256:{hashlib.sha256(json.dumps(document).encode()).hexdigest()} of {len(document)}"
    return [_shorten(item) for item in document] if isinstance(document, list) else document


def normalise(mask: str, answer: Answer, repository: str = "") -> Answer:
    """The answer as it is recorded and compared; `repository` is the path of the model repository."""
    result: Answer = _anywhere(answer, repository)
    if "status" in result:
        result["headers"] = _comparable_headers(result)
        if "json" in result:
            result["json"] = _apply(mask, result["json"])
        if "text" in result and result["text"].startswith("data: "):
            result["events"] = _events(result.pop("text"))
        if mask == "metrics" and "text" in result:
            result["metrics"] = _mask_metrics(result.pop("text"))
        if mask == "own-metrics" and "text" in result:
            result["metrics"] = _mask_own_metrics(result.pop("text"))
    elif "responses" in result:
        # Which side notices the deadline first, and so words it, is a race.
        result["message"] = "" if result["code"] == "DEADLINE_EXCEEDED" else _order_free(result["message"])
        responses = [_without_version(response) for response in result["responses"]]
        if mask == "by-id":  # which answer leaves first is not the point
            mask, responses = "", sorted(responses, key=_id_of)
        result["responses"] = [_apply(mask, response) for response in responses]
    return {key: _shorten(value) for key, value in result.items() if value not in ({}, [], "")}


def canonical(answer: Answer) -> str:
    """A text that is equal for equal answers: NaN equals itself, 1 differs from 1.0."""
    return json.dumps(answer, sort_keys=True)
