"""Draws docs/grain.jpg: scenes that a trained GRAIN has not seen, its boxes, and the description nearest to each.

    python docs/grain_picture.py WORK/grain-0/checkpoint.pth.tar GROCERY

Of boxes that overlap by more than half the surest is drawn. Green: the description is that of the object there.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from rar.benchmarks.grain.scenes import SIDE, mixed_scenes
from rar.benchmarks.grain.things import read_products
from rar.export.grain.boxes import overlap, to_corners
from rar.export.grain.checkpoint import load
from rar.export.grain.data import Collator
from rar.export.grain.metrics import embed_texts, look
from rar.export.grain.tokens import tokenizer

SEED, SCENES, SHOWN, COLUMNS = 1002, 500, 6, 3
SCALE, TEXT, GAP = 4, 64, 8
LETTERS = 60


def main(checkpoint: str, grocery: str) -> None:
    """Writes the picture."""
    model = load(Path(checkpoint)).model
    collator = Collator(model.config, tokenizer(model.config))
    scenes = mixed_scenes(SCENES, SEED, read_products(Path(grocery), "test"))
    distinct = list(dict.fromkeys(text for texts in scenes.descriptions for text in texts))
    texts = embed_texts(model, collator, distinct)
    # Scenes of three objects or more, from the front.
    places = [place for place in range(SCENES) if len(scenes.boxes[place]) > 2][:SHOWN]
    ((batch, seen),) = look(model, collator, scenes, places)
    width, height = SCALE * SIDE + GAP, SCALE * SIDE + TEXT + GAP
    sheet = Image.new("RGB", (COLUMNS * width - GAP, -(-SHOWN // COLUMNS) * height - GAP), "white")
    for number, example in enumerate(batch):
        scores, nearest = (seen.regions[number] @ texts.T).max(1)
        boxes, lines = to_corners(seen.boxes[-1, number]).clamp(0, 1), []
        tile = Image.new("RGB", (width - GAP, height - GAP), "white")
        tile.paste(Image.fromarray(example.pixels).resize((SCALE * SIDE,) * 2, Image.Resampling.NEAREST))
        draw, drawn = ImageDraw.Draw(tile), list[int]()
        for query in scores.argsort(descending=True).tolist():
            if any(float(overlap(boxes[query], boxes[other])[0]) > 0.5 for other in drawn):
                continue
            drawn.append(query)
            truth = torch.from_numpy(example.boxes) / SIDE
            best = int(overlap(boxes[query], truth)[0].argmax())
            colour = "green" if example.descriptions[best] == distinct[int(nearest[query])] else "red"
            corners = (boxes[query] * SCALE * SIDE).tolist()
            draw.rectangle(corners, outline=colour, width=3)
            draw.text(
                (corners[0] + 5, corners[1] + 4), str(len(drawn)), fill="white", stroke_width=2, stroke_fill="black"
            )
            text = distinct[int(nearest[query])]
            lines.append((f"{len(drawn)}  {text[:LETTERS]}{'...' if len(text) > LETTERS else ''}", colour))
        for line, (text, colour) in enumerate(lines):
            draw.text((2, SCALE * SIDE + 3 + 12 * line), text, fill=colour)
        sheet.paste(tile, (number % COLUMNS * width, number // COLUMNS * height))
    sheet.save(Path(__file__).with_name("grain.jpg"), quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:])
