"""The claims of a report as one file, `claims.json`: `{"runs": [[path, …], …], "claims": [record, …]}`.

`runs` of a record is the place of its list among `runs`: most claims of an experiment rest on the same runs, and each
list stands once.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hessflat.utils.errors import InputError, command, in_one_line

Record = dict[str, Any]


def claims_as_json(records: Sequence[Record]) -> str:
    """The text of the file, a line for each list and each record. Equal records give equal text."""
    lists = list(dict.fromkeys(tuple(record["runs"]) for record in records))
    places = {runs: place for place, runs in enumerate(lists)}
    claims = [record | {"runs": places[tuple(record["runs"])]} for record in records]
    runs, rest = (",\n".join(json.dumps(one, ensure_ascii=False) for one in many) for many in (lists, claims))
    return f'{{"runs": [\n{runs}\n],\n"claims": [\n{rest}\n]}}\n'


def read_claims(path: Path) -> list[Record]:
    """The records of a file, each with its own list of paths.

    Raises:
        InputError: it is not as a report writes it.
    """
    try:
        stored = json.loads(path.read_text())
        return [claim | {"runs": list(stored["runs"][claim["runs"]])} for claim in stored["claims"]]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path} cannot be read ({in_one_line(error)}); redraw it: {command('report')}") from error
