"""The rules of SARIF 2.1.0 for the objects that isomorph writes, as a JSON schema; what it does not write is refused.

From the text of the standard (OASIS, sections 3.4 to 3.58), not from its schema file: a property is here with the type,
enumeration, minimum and uniqueness that its section states.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
BAG = {"type": "object", "properties": {"tags": {"type": "array", "items": TEXT, "uniqueItems": True}}}  # 3.8
LEVEL = {"enum": ["none", "note", "warning", "error"]}
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z$"}  # 3.9


def thing(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """An object of these properties and a property bag, and no others."""
    found = {"type": "object", "properties": {**properties, "properties": BAG}, "additionalProperties": False}
    return {**found, "required": required.split()}


def many(item: dict[str, Any], unique: bool = True) -> dict[str, Any]:
    return {"type": "array", "items": item, "uniqueItems": unique}


MESSAGE = thing("text", text=TEXT, markdown=TEXT)  # 3.11, 3.12
ARTIFACT_LOCATION = thing(uri={"type": "string", "format": "uri-reference"}, uriBaseId=TEXT, description=MESSAGE)  # 3.4
REGION = thing("startLine", startLine={"type": "integer", "minimum": 1})  # 3.30
LOCATION = thing(  # 3.28
    physicalLocation=thing("artifactLocation", artifactLocation=ARTIFACT_LOCATION, region=REGION),  # 3.29
    logicalLocations=many(thing("fullyQualifiedName", fullyQualifiedName=TEXT, kind=TEXT)),  # 3.33
)
RULE = thing(  # 3.49
    "id", id=TEXT, name=TEXT, shortDescription=MESSAGE, fullDescription=MESSAGE, help=MESSAGE,
    defaultConfiguration=thing(level=LEVEL),
)  # fmt: skip
RESULT = thing(  # 3.27
    "message",
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    kind={"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
    level=LEVEL,
    message=MESSAGE,
    locations=many(LOCATION, unique=False),
    partialFingerprints={"type": "object", "additionalProperties": TEXT},
    suppressions=many(  # 3.35
        thing(
            "kind",
            kind={"enum": ["inSource", "external"]},
            status={"enum": ["accepted", "underReview", "rejected"]},
            justification=TEXT,
        )
    ),
)
INVOCATION = thing(  # 3.20
    "executionSuccessful",
    executionSuccessful={"type": "boolean"},
    exitCode={"type": "integer"},
    commandLine=TEXT,
    endTimeUtc=TIME,
    toolExecutionNotifications=many(thing("message", message=MESSAGE, level=LEVEL), unique=False),  # 3.58
)
ARTIFACT = thing(  # 3.24
    location=ARTIFACT_LOCATION,
    length={"type": "integer", "minimum": -1},
    roles=many({"enum": ["analysisTarget", "attachment", "responseFile", "resultFile"]}),
    hashes={"type": "object", "additionalProperties": TEXT},
    description=MESSAGE,
)
RUN = thing(  # 3.14
    "tool",
    tool=thing("driver", driver=thing("name", name=TEXT, version=TEXT, rules=many(RULE))),  # 3.18, 3.19
    invocations=many(INVOCATION, unique=False),
    originalUriBaseIds={"type": "object", "additionalProperties": ARTIFACT_LOCATION},
    artifacts=many(ARTIFACT),
    results=many(RESULT, unique=False),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
)
LOG = {  # 3.13
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {"$schema": {"type": "string", "format": "uri"}, "version": {"const": "2.1.0"}, "runs": many(RUN)},
}
