"""ATSS in NumPy and float64, object by object, as its paper and mmdetection describe it."""

import numpy as np


def anchors_of(canvas, levels):
    """Returns the anchors of each level, a list of [n, 4]."""
    found = []
    for level in range(levels):
        stride = 8 << level
        height, width = (-(-side // stride) for side in canvas)
        centres = [(x * stride, y * stride) for y in range(height) for x in range(width)]
        half = 4 * stride
        found.append(np.array([(x - half, y - half, x + half, y + half) for x, y in centres], np.float64))
    return found


def overlap(a, b):
    """Returns the IoU of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / max(union, 1e-6)


def assign(canvas, levels, size, boxes):
    """Returns the object of each anchor, -1 for background and -2 for an anchor outside of the padded image."""
    padded = [-(-side // 32) * 32 for side in size]
    places = anchors_of(canvas, levels)
    inside = [
        np.array([(a[1] + a[3]) / 2 < padded[0] and (a[0] + a[2]) / 2 < padded[1] for a in level]) for level in places
    ]
    whole = np.concatenate(places)
    owner, best = np.where(np.concatenate(inside), -1, -2), np.full(len(whole), -np.inf)
    for number, box in enumerate(boxes):
        centre, chosen, first = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), [], 0
        for level, used in zip(places, inside, strict=True):
            distances = [np.hypot((a[0] + a[2]) / 2 - centre[0], (a[1] + a[3]) / 2 - centre[1]) for a in level]
            order = [place for place in np.argsort(distances, kind="stable") if used[place]]
            chosen += [first + place for place in order[:9]]
            first += len(level)
        ious = [overlap(whole[place], box) for place in chosen]
        threshold = np.mean(ious) + np.std(ious, ddof=1)
        for place, iou in zip(chosen, ious, strict=True):
            x, y = (whole[place][:2] + whole[place][2:]) / 2
            if iou >= threshold and min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01 and iou > best[place]:
                owner[place], best[place] = number, iou
    return owner


def losses(logits, deltas, centerness, owner, boxes, labels, whole):
    """Returns the sums of the focal loss, of 1 - GIoU times the centerness, and of the centerness's cross-entropy."""
    focal = giou = centre = total = 0.0
    for place, number in enumerate(owner):
        if number == -2:
            continue
        for each, logit in enumerate(logits[place]):
            p = 1 / (1 + np.exp(-logit))
            true = number >= 0 and labels[number] == each
            focal -= 0.25 * (1 - p) ** 2 * np.log(p) if true else 0.75 * p**2 * np.log1p(-p)
        if number < 0:
            continue
        anchor, box = whole[place], boxes[number]
        x, y = (anchor[:2] + anchor[2:]) / 2
        sides = anchor[2:] - anchor[:2]
        dx, dy, dw, dh = np.array(deltas[place]) * (0.1, 0.1, 0.2, 0.2)
        limit = np.log(1000 / 16)
        cx, cy = x + dx * sides[0], y + dy * sides[1]
        w, h = sides[0] * np.exp(np.clip(dw, -limit, limit)), sides[1] * np.exp(np.clip(dh, -limit, limit))
        found = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        before, after = (x - box[0], y - box[1]), (box[2] - x, box[3] - y)
        target = np.sqrt(np.prod([min(a, b) / max(a, b) for a, b in zip(before, after, strict=True)]))
        both = max(0, min(found[2], box[2]) - max(found[0], box[0])) * max(
            0, min(found[3], box[3]) - max(found[1], box[1])
        )
        union = w * h + (box[2] - box[0]) * (box[3] - box[1]) - both
        around = (max(found[2], box[2]) - min(found[0], box[0])) * (max(found[3], box[3]) - min(found[1], box[1]))
        giou += target * (1 - both / union + (around - union) / around)
        p = 1 / (1 + np.exp(-centerness[place]))
        centre -= target * np.log(p) + (1 - target) * np.log1p(-p)
        total += target
    return focal, giou, centre, total
