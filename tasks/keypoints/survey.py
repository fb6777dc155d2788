"""Statistics of keypoint labels, and settings that they suggest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tasks.keypoints.audit import ambiguity
from tasks.keypoints.items import box_of, usable
from tasks.keypoints.settings import KeypointsConfig
from utils.formats.types import AnnotatedPicture, Skeleton
from utils.keypoints.left_right import body_axis, left_right_pairs

FEW_PICTURES = 64  # up to so many, a profile of few data fits
SMALL_ANIMAL = 0.2  # of a picture's short side; a smaller animal covers few cells
MOST_ENLARGED = 2.0  # times the default size, at four times its cost
RARE_POINT = 0.2  # share of the animals below which a keypoint is hardly learnt


def survey(skeleton: Skeleton, pictures: Sequence[AnnotatedPicture]) -> list[str]:
    r"""Count pictures, animals and points, measure animals, and compare left and right.

    Parameters
    ----------
    skeleton : Skeleton
        Names the points.
    pictures : sequence of AnnotatedPicture
        With their animals.

    Returns
    -------
    list of str
        A line each.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> source = pose_task().source
    >>> pictures = [item.picture for item in source.items("val")]
    >>> print(*survey(source.labels.skeleton, pictures), sep="\n")  # doctest: +ELLIPSIS
    4 pictures, 0 of them without an animal; ... animals, at most ... in a picture
    points labelled (of them hidden): snout ...
    animals' boxes: median ... of the picture's short side, smallest ... (... x ... pixels)
    left and right: pairs left_ear - right_ear, left_paw - right_paw; ... cannot be told apart across the body
    """
    numbers = [len(usable(picture)) for picture in pictures]
    lines = [
        f"{len(pictures)} pictures, {numbers.count(0)} of them without an animal; {sum(numbers)} animals, "
        f"at most {max(numbers, default=0)} in a picture"
    ]
    if skeleton.names == tuple(map(str, range(skeleton.num_keypoints))):
        lines.append(
            f"the labels give the keypoints no names but the numbers 0 to {skeleton.num_keypoints - 1}, which results "
            "bear too; name them in kpt_names of the data.yaml (YOLO), keypoints of the category (COCO), or the labels "
            "of shapes (LabelMe)"
        )
    if not sum(numbers):
        return lines
    flags = np.stack([animal.keypoints[:, 2] for picture in pictures for animal in usable(picture)])
    counts = zip(skeleton.names, (flags > 0).sum(axis=0), (flags == 1).sum(axis=0), strict=True)
    lines.append("points labelled (of them hidden): " + ", ".join(f"{n} {seen} ({hid})" for n, seen, hid in counts))
    return [*lines, *_sizes(pictures), _sides(skeleton, pictures)]


def _sizes(pictures: Sequence[AnnotatedPicture]) -> Iterator[str]:
    """Size of the animals in their pictures.

    Examples
    --------
    >>> list(_sizes([]))
    []
    """
    sides = animal_sizes(pictures)
    if sides:
        share, (height, width) = min(sides)
        median = float(np.median([share for share, _ in sides]))
        yield (
            f"animals' boxes: median {median:.2f} of the picture's short side, smallest {share:.2f} "
            f"({height:.0f} x {width:.0f} pixels)"
        )


def animal_sizes(pictures: Sequence[AnnotatedPicture]) -> list[tuple[float, tuple[float, float]]]:
    """Measure each animal: longer side of its box over the picture's short side, and the box's height and width.

    Examples
    --------
    >>> from pathlib import Path
    >>> from utils.formats.types import Instance
    >>> fly = Instance("fly", np.array([[1.0, 2.0, 2.0]]), np.array([0.0, 0.0, 20.0, 10.0]))
    >>> animal_sizes([AnnotatedPicture("a", Path("a.png"), (40, 60), (fly,))])
    [(0.5, (10.0, 20.0))]
    """
    sizes = []
    for picture in pictures:
        for animal in usable(picture):
            box = box_of(animal)
            if box is not None and picture.size is not None:
                width, height = (box[2:] - box[:2]).tolist()
                sizes.append((max(height, width) / min(picture.size), (height, width)))
    return sizes


def _sides(skeleton: Skeleton, pictures: Sequence[AnnotatedPicture]) -> str:
    """Pairs of keypoints, and the share that cannot be told apart.

    Examples
    --------
    >>> _sides(Skeleton(("head", "tail")), [])
    'left and right: the labels have no flip_idx, so pictures are not mirrored'
    """
    if skeleton.flip_idx is None:
        return "left and right: the labels have no flip_idx, so pictures are not mirrored"
    pairs = left_right_pairs(skeleton.flip_idx).numpy()
    listed = ", ".join(f"{skeleton.names[left]} - {skeleton.names[right]}" for left, right in pairs) or "none"
    axis = body_axis(skeleton.names)
    if axis is None or not len(pairs):
        return f"left and right: pairs {listed}"
    doubt = ambiguity([animal for picture in pictures for animal in usable(picture)], pairs, axis)
    return f"left and right: pairs {listed}; {100 * doubt:.0f} % of them cannot be told apart across the body"


def fitting_profiles(pictures: Sequence[AnnotatedPicture]) -> dict[str, str]:
    """Profiles that are made for such data, with the advice to take them.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> fitting_profiles([item.picture for item in pose_task().source.items("val")])
    {'small_data': 'few pictures (4): the profile small_data is made for them'}
    """
    if len(pictures) > FEW_PICTURES:
        return {}
    return {"small_data": f"few pictures ({len(pictures)}): the profile small_data is made for them"}


def suggestions(skeleton: Skeleton, pictures: Sequence[AnnotatedPicture]) -> list[str]:
    """Suggest settings from the statistics.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> source = pose_task().source
    >>> bare = Skeleton(source.labels.skeleton.names)
    >>> suggestions(bare, [item.picture for item in source.items("val")])[-1]
    'name flip_idx in the labels, and mirrored pictures double the training data'
    """
    advice, shares = [], [share for share, _ in animal_sizes(pictures)]
    if shares and np.median(shares) < SMALL_ANIMAL:
        larger = min(SMALL_ANIMAL / float(np.median(shares)), MOST_ENLARGED)
        side = round(KeypointsConfig().short_side * larger / 16) * 16
        few = ", which with so few pictures is seldom enough by itself" if len(pictures) <= FEW_PICTURES else ""
        advice.append(
            "animals are small in their pictures: if inference will have their boxes (keypoints.prompts), write "
            "keypoints.instance_mode=per_instance after the command; without boxes keypoints.short_side="
            f"{side}, at {larger**2:.2g} times the cost{few}"
        )
    animals = [animal for picture in pictures for animal in usable(picture)]
    if animals:
        share = np.mean([animal.keypoints[:, 2] > 0 for animal in animals], axis=0)
        rare = [name for name, value in zip(skeleton.names, share, strict=True) if value < RARE_POINT]
        if rare:
            advice.append(f"few labels: {', '.join(rare)}; label more of them, or leave them out")
    if skeleton.flip_idx is None:
        advice.append("name flip_idx in the labels, and mirrored pictures double the training data")
    return advice
