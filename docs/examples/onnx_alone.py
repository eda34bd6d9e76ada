"""One click on one image with an export, using only NumPy and onnxruntime.

dct-seg export dct-lite0 --out exported
python onnx_alone.py exported image.npy ROW COL RADIUS mask.npy
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder, image_file, row, col, radius, mask_file = sys.argv[1:]
card = json.loads(Path(folder, "dct_seg.json").read_text())
names = ["encoder", "decoder"] if card["is_late"] else ["network"]
*encoder, decoder = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in names)

image = np.load(image_file)  # (H, W, 3) uint8 RGB
multiple = card["multiple"]
height, width = (side // multiple * multiple for side in image.shape[:2])  # resize a real image instead
seen = {"image": image[:height, :width].astype(np.float32).transpose(2, 0, 1)[None] / 255}
if encoder:  # once per image
    features = encoder[0].run(None, seen)
    seen = {f"features_{i}": feature for i, feature in enumerate(features)}

prompt = {
    "coords": np.array([[[row, col]]], np.float32),  # (1, N, 2) pixels
    "labels": np.array([[1]], np.int64),  # (1, N): 1 object, 0 background, -1 padding
    "radii": np.array([[radius]], np.float32),  # (1, N) pixels
    "previous": np.zeros((1, 1, height, width), np.float32),  # probabilities before the last click
    "size": np.array([height, width], np.int64),
}
logits = decoder.run(None, {**seen, **prompt})[0]  # (1, 1, H, W), once per click
mask = logits[0, 0] > 0
np.save(mask_file, mask)
sys.stdout.write(f"{mask.sum()} pixels of {height} x {width}\n")
