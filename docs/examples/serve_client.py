"""Segment an object in an image through `dct-seg serve`, using only the standard library.

python docs/examples/serve_client.py http://127.0.0.1:8766 image.jpg ROW COL [RADIUS] > mask.png
"""

import json
import os
import sys
import urllib.request
from pathlib import Path

TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


def call(url: str, body: bytes, media_type: str) -> bytes:
    """Post a body and return the body of the response."""
    headers = {"Content-Type": media_type}
    if "DCT_SEG_TOKEN" in os.environ:
        headers["Authorization"] = f"Bearer {os.environ['DCT_SEG_TOKEN']}"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        return answer.read()


server, name, *numbers = sys.argv[1:]
row, col, *radius = [float(number) for number in numbers]
file = Path(name)
image = json.loads(call(f"{server}/api/v1/images", file.read_bytes(), TYPES[file.suffix.lower()]))
click = {"row": row, "col": col, "radius": radius[0] if radius else None}
prompt = json.dumps({"clicks": [click]}).encode()
found = json.loads(call(f"{server}/api/v1/images/{image['id']}/predict", prompt, "application/json"))
print(f"{found['area']} of {image['height']}x{image['width']} pixels, box {found['bbox']}", file=sys.stderr)
sys.stdout.buffer.write(call(f"{server}/api/v1/images/{image['id']}/mask.png", prompt, "application/json"))
