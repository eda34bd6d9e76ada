"""Fail unless the quickstart's output shows that the network learned, and the files it names exist."""

import re
import sys
from pathlib import Path

log, folder = Path(sys.argv[1]).read_text(encoding="utf-8"), Path(sys.argv[2])
print(log[log.index("\nprompt") :])
header = re.search(r"^prompt +(.*)$", log, re.MULTILINE)
assert header, "the quickstart printed no table"
columns = header[1].split()
for name in ("NoC@85", "NoC@90", "NoF@90", "mIoU@1", "mIoU@3", "mIoU@5"):
    assert name in columns, f"the table has no column {name}"
rows = {
    m[1]: dict(zip(columns, m[2].split(), strict=True))
    for m in re.finditer(r"^(\w+, \w+) +(.*)$", log, re.MULTILINE)
}
for prompt in ("drag", "click"):
    before, after = rows[f"{prompt}, before"], rows[f"{prompt}, after"]
    assert float(after["NoC@85"]) < float(before["NoC@85"]) - 5, (
        f"{prompt}: NoC@85 fell from {before['NoC@85']} to {after['NoC@85']} only"
    )
    assert float(after["mIoU@5"]) > 0.6, f"{prompt}: mIoU@5 is {after['mIoU@5']}"
for line in ("checkpoint", "image"):
    path = folder / re.search(rf"^{line} +(.*)$", log, re.MULTILINE)[1]
    assert path.is_file(), f"there is no {path}"
