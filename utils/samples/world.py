"""A small seeded world: farmland from the air, and foxes seen from above, in photos and on the move.

Shapes are planned first; the picture and its truth (masks, boxes, keypoints, tracks) are made from them. Colour alone
does not separate the classes of the land: dark roofs look like water, dense crops like forest, tracks like stubble.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import shapely
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity

CLASSES = ("field", "road", "building", "water", "forest")
UNLABELLED = "building site"
KEYPOINTS = ("snout", "left_ear", "right_ear", "left_paw", "right_paw", "tail_base", "tail_tip")
EDGES = ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5), (5, 6))
FPS = 20  # of the chase
CROPS = ((104, 128, 62), (134, 148, 78), (172, 158, 104), (190, 172, 124), (116, 92, 68), (88, 74, 58), (72, 98, 50))
ROOFS = ((158, 92, 72), (142, 76, 60), (176, 172, 166), (66, 72, 78), (54, 62, 66), (120, 112, 104))
ASPHALT, TRACK, WATER, FOREST, SOIL = (118, 116, 114), (164, 146, 116), (48, 66, 70), (58, 80, 46), (150, 124, 98)
SHADOW = np.array([0.8, 0.6])  # shadows of the land fall this way, x and y
GROUNDS = {"grass": (98, 132, 62), "pebbles": (92, 84, 72), "sand": (208, 184, 142)}
COATS = {  # fur, line along the back, cheeks, legs, tip of the tail, inner ear
    "red": ((222, 118, 48), (176, 78, 30), (250, 236, 214), (58, 40, 36), (252, 246, 236), (74, 48, 42)),
    "arctic": ((226, 230, 236), (206, 212, 222), (252, 252, 252), (196, 202, 214), (250, 252, 255), (214, 160, 156)),
    "silver": ((84, 90, 104), (52, 56, 68), (168, 174, 186), (34, 34, 42), (246, 246, 250), (148, 112, 112)),
    "fennec": ((232, 198, 146), (204, 160, 104), (252, 242, 224), (214, 178, 132), (66, 50, 44), (240, 176, 156)),
    "umber": ((142, 96, 66), (86, 56, 42), (226, 198, 164), (60, 42, 34), (240, 226, 204), (206, 146, 124)),
}
NOSE, GLINT = (34, 27, 30), (250, 250, 246)
HAIRS = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((64, 64)), (2.0, 0.7), mode="wrap")
HAIRS /= HAIRS.std()  # a texture that repeats, with hairs along its first axis


class Object(NamedTuple):
    """What a detector, a tracker, an instance or a keypoint head looks for in a picture.

    Its class, `fox` or `building`; its number from 1, the same in all frames of a video; a half-open box (4,) of
    float64, tight around the mask (H, W) of bool where it is seen; keypoints (K, 2) of float64 in pixels, in the order
    of `KEYPOINTS`, 0 where not labelled; and their visibility (K,) of int64: 2 visible, 1 hidden beneath a body, 0
    outside the picture. A building has no keypoints.

    >>> roof = draw_land(7, 0, (192, 256))[2][0]
    >>> roof.name, roof.mask.shape, roof.keypoints.shape
    ('building', (192, 256), (0, 2))
    """

    name: str
    track_id: int
    box_xyxy: np.ndarray
    mask: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray


Drawn = tuple[np.ndarray, list[Object]]


def _list_objects(name: str, owners: np.ndarray, keypoints: np.ndarray) -> list[Object]:
    """List what is seen: `owners` (H, W) numbers objects from 1, `keypoints` (N, K, 3) are x, y and visibility.

    >>> owners = np.array([[0, 2, 2], [0, 0, 2]])
    >>> [(thing.track_id, thing.box_xyxy.tolist()) for thing in _list_objects("fox", owners, np.zeros((2, 0, 3)))]
    [(2, [1.0, 0.0, 3.0, 2.0])]
    """
    objects = []
    for number, (window, points) in enumerate(zip(ndimage.find_objects(owners), keypoints, strict=False), 1):
        if window is not None:
            box = np.array([window[1].start, window[0].start, window[1].stop, window[0].stop], np.float64)
            objects.append(Object(name, number, box, owners == number, points[:, :2], points[:, 2].astype(np.int64)))
    return objects


def _draw_noise(generator: np.random.Generator, size: tuple[int, ...], scale: float) -> np.ndarray:
    """Draw smooth noise (H, W) around 0 with a deviation near 1: a random grid of cells of `scale` pixels, resized.

    >>> noise = _draw_noise(np.random.default_rng(0), (40, 50), 8.0)
    >>> noise.shape, bool(np.abs(np.diff(noise)).max() < 1)
    ((40, 50), True)
    """
    coarse = generator.standard_normal([int(side / scale) + 3 for side in size])
    height, width = (round(cells * scale) for cells in coarse.shape)
    return 1.3 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[: size[0], : size[1]]


class Area(NamedTuple):
    """A part of the land of one class: its polygon in pixels, colour, direction (radians) and row spacing (pixels).

    >>> Area("water", shapely.box(0, 0, 4, 2), WATER).shape.area
    8.0
    """

    name: str
    shape: Any
    colour: tuple[float, ...]
    angle: float = 0.0
    period: float = 6.0


def draw_land(seed: int, index: int, size: tuple[int, int]) -> tuple[np.ndarray, list[Area], list[Object]]:
    """Plan and draw scene number `index` of a seed, of a size (H, W).

    Returns an image (H, W, 3) of bytes, 0 outside the turned footprint and nowhere else; areas that fill the footprint
    without overlap, among them a building site, which has no label; and its buildings, what can be counted.

    >>> image, areas, buildings = draw_land(7, 0, (192, 256))
    >>> image.shape, len({area.name for area in areas}), {thing.name for thing in buildings}
    ((192, 256, 3), 6, {'building'})
    """
    generator = np.random.default_rng([seed, index])
    areas = _plan_land(generator, size)
    owners = rasterize([(area.shape, number) for number, area in enumerate(areas, 1)], size, dtype=np.int32)
    light = 1 + 0.12 * _draw_noise(generator, size, 0.9 * max(size))[..., None]  # falls off across the scene
    canvas = cv2.GaussianBlur(_paint_land(generator, areas, owners) * light, (0, 0), 0.6)
    canvas = np.clip(np.rint(canvas + generator.normal(0, 2.5, canvas.shape)), 1, 255)
    image = (canvas * (owners > 0)[..., None]).astype(np.uint8)
    count = sum(area.name == "building" for area in areas)  # they come first
    return image, areas, _list_objects("building", owners * (owners <= count), np.zeros((count, 0, 3)))


def _plan_land(generator: np.random.Generator, size: tuple[int, int]) -> list[Area]:
    """Lay out a scene: what comes first covers what comes later, and fields fill the rest.

    >>> shapes = [area.shape for area in _plan_land(np.random.default_rng(0), (128, 160))]
    >>> bool(np.isclose(sum(shape.area for shape in shapes), shapely.union_all(shapes).area))
    True
    """
    frame = shapely.box(0, 0, size[1], size[0])
    turned = affinity.rotate(affinity.scale(frame, 1.05, 1.05), generator.uniform(5, 7) * generator.choice([-1, 1]))
    free = frame.intersection(turned)  # what the camera saw; corners of the frame hold no data
    roads, t = [], np.linspace(-0.05, 1.05, 48)
    middles = generator.uniform((0.42, 0.42, 0.1, 0.8), (0.58, 0.58, 0.2, 0.9))
    for index, (middle, half) in enumerate(zip(middles, (7.0, 6.0, 4.0, 4.0), strict=True)):
        along, across = size[::-1] if index % 2 == 0 else size  # odd ones run from top to bottom
        bend = generator.uniform(0.03, 0.1) * np.sin(np.pi * generator.uniform(0.8, 1.6) * t + generator.uniform(0, 6))
        curve = np.stack([t * along, across * (middle + bend)], axis=1)
        line = shapely.LineString(curve if index % 2 == 0 else curve[:, ::-1])
        roads.append((line, half, ASPHALT if index < 2 else TRACK))
    lakes = _plan_blobs(generator, size, 4, 0.5, 0.13)
    blocked = shapely.union_all([line.buffer(half + 3) for line, half, _ in roads] + [lake.buffer(4) for lake in lakes])
    planned = _plan_buildings(generator, roads, blocked)
    planned += [Area("road", line.buffer(half, cap_style="flat"), colour) for line, half, colour in roads]
    planned += [Area(UNLABELLED, blob, SOIL) for blob in _plan_blobs(generator, size, 1, 1.0, 0.06)]
    planned += [Area("water", lake, WATER) for lake in lakes]
    planned += [Area("forest", blob, FOREST) for blob in _plan_blobs(generator, size, 5, 1.2, 0.11)]
    areas = []
    for area in planned + _plan_fields(generator, size):
        pieces = sorted(shapely.get_parts(area.shape.intersection(free)), key=lambda piece: piece.bounds)
        areas += [area._replace(shape=piece) for piece in pieces if piece.geom_type == "Polygon" and piece.area >= 1]
        free = free.difference(area.shape)
    return areas


def _plan_blobs(generator: np.random.Generator, size: tuple[int, int], count: int, rough: float, radius: float) -> list:
    """Plan rounded polygons in different parts of the frame; the radius is a share of its shorter side.

    >>> lakes = _plan_blobs(np.random.default_rng(0), (128, 160), 3, 0.5, 0.2)
    >>> all(lake.is_valid for lake in lakes), lakes[0].area > lakes[2].area
    (True, True)
    """
    turns, waves = np.linspace(0, 2 * np.pi, 120, endpoint=False), np.arange(2, 8)[:, None]
    # One in each of `count` columns and rows, in random order: spread out, so that each split gets some.
    places = [(generator.permutation(count) + generator.uniform(0.25, 0.75, count)) / count for _ in "xy"]
    blobs = []
    for index, (x, y) in enumerate(zip(*places, strict=True)):
        strength, phase = generator.uniform((-0.35, 0), (0.35, 2 * np.pi), (len(waves), 2)).T[..., None]
        reach = np.exp((rough * strength / waves * np.cos(waves * turns + phase)).sum(axis=0)) * radius * 0.85**index
        outline = min(size) * np.stack([reach * np.cos(turns) * generator.uniform(1.0, 1.7), reach * np.sin(turns)])
        turned = affinity.rotate(shapely.Polygon(outline.T), generator.uniform(0, 180), origin=(0, 0))
        blobs.append(affinity.translate(turned, x * size[1], y * size[0]))
    return blobs


def _plan_buildings(generator: np.random.Generator, roads: Sequence[tuple], blocked: Any) -> list[Area]:
    """Plan houses and halls along the roads, apart from each other and from what is blocked.

    >>> line = shapely.LineString([(0, 50), (400, 50)])
    >>> houses = _plan_buildings(np.random.default_rng(0), [(line, 6.0, ASPHALT)], line.buffer(8))
    >>> len(houses) > 3, any(house.shape.intersects(line.buffer(8)) for house in houses)
    (True, False)
    """
    buildings: list[Area] = []
    sites = [(road, step, side) for road in roads for step in np.arange(15, road[0].length, 46) for side in (-1, 1)]
    for (line, half_width, _), step, side in sites:
        here, ahead = shapely.get_coordinates(line.interpolate(step + generator.uniform(-10, 10) + np.array([0, 2])))
        angle = float(np.arctan2(*(ahead - here)[::-1]))
        length, depth = generator.uniform((18, 13), (32, 22)) * generator.choice([1.0, 1.7], p=[0.8, 0.2])
        house = shapely.box(-length / 2, -depth / 2, length / 2, depth / 2)
        if generator.uniform() < 0.3:
            house = house.union(shapely.box(-length / 2, 0, -0.18 * length, depth * 0.9))  # a wing
        setback = side * (half_width + generator.uniform(7, 18) + depth / 2)
        house = affinity.rotate(house, angle, origin=(0, 0), use_radians=True)
        house = affinity.translate(house, here[0] - setback * np.sin(angle), here[1] + setback * np.cos(angle))
        near = [blocked, *(other.shape.buffer(6) for other in buildings)]
        if generator.uniform() < 0.7 and not shapely.intersects(house, near).any():
            buildings.append(Area("building", house, ROOFS[generator.integers(len(ROOFS))], angle))
    return buildings


def _plan_fields(generator: np.random.Generator, size: tuple[int, int]) -> list[Area]:
    """Fill the frame with fields: cells around scattered points, stretched along one direction.

    >>> fields = _plan_fields(np.random.default_rng(0), (128, 160))
    >>> shapely.union_all([field.shape for field in fields]).contains(shapely.box(0, 0, 160, 128))
    True
    """
    reach, spacing, turn = float(np.hypot(*size)), np.array([150.0, 90.0]), generator.uniform(0, 180)
    grid = np.stack(np.meshgrid(*(np.arange(-reach, reach, step) for step in spacing)), axis=-1).reshape(-1, 2)
    points = shapely.MultiPoint(grid + generator.uniform(-0.3, 0.3, grid.shape) * spacing)
    cells = shapely.voronoi_polygons(points, extend_to=shapely.box(-reach, -reach, reach, reach))
    fields = []
    for cell in sorted(cells.geoms, key=lambda cell: cell.bounds):  # releases of GEOS order them differently
        shape = affinity.translate(affinity.rotate(cell, turn, origin=(0, 0)), size[1] / 2, size[0] / 2)
        colour = np.array(CROPS[generator.integers(len(CROPS))]) * generator.uniform(0.9, 1.1)
        angle = np.radians(turn) + generator.choice([0.0, np.pi / 2]) + generator.normal(0, 0.05)
        if shape.intersects(shapely.box(0, 0, *size[::-1])):
            fields.append(Area("field", shape, tuple(colour.tolist()), float(angle), generator.uniform(4, 9)))
    return fields


def _paint_land(generator: np.random.Generator, areas: Sequence[Area], owners: np.ndarray) -> np.ndarray:
    """Paint areas, each pixel that of its owner (H, W), with textures and shadows: a canvas (H, W, 3), 0 to 255.

    >>> roof = Area("building", shapely.box(0, 0, 20, 10), ROOFS[0])
    >>> canvas = _paint_land(np.random.default_rng(0), [roof], np.ones((10, 20), np.int32))
    >>> canvas.shape, bool(canvas[:5].mean() > canvas[5:].mean())  # the slope towards the sun is lighter
    ((10, 20, 3), True)
    """
    size, (y, x), kinds = owners.shape, np.indices(owners.shape) + 0.5, (*CLASSES, UNLABELLED)
    looks = [(-1, 0, 1.0, 0, 0)]
    looks += [(kinds.index(area.name), area.angle, area.period, *area.shape.centroid.coords[0]) for area in areas]
    kind, angle, period, centre_x, centre_y = np.array(looks).T[:, owners]
    field, road, building, water, forest, site = (kind == index for index in range(len(kinds)))
    wide, fine, rough = (_draw_noise(generator, size, scale) for scale in (60.0, 20.0, 10.0))
    grain = generator.standard_normal(size)
    across = x * np.sin(angle) - y * np.cos(angle) + 0.8 * wide
    tramlines = np.abs(across % 48 - 24) < 1.2  # of the tractor
    margin = ndimage.distance_transform_edt(field & (ndimage.minimum_filter(owners, 3) == owners)) < 3
    depth = ndimage.distance_transform_edt(road)
    line = (depth > 5.5) & (depth == ndimage.maximum_filter(depth, 3))
    ridge = (y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)
    slope = np.sign(ridge) * (np.sin(angle) * SHADOW[0] - np.cos(angle) * SHADOW[1])
    ripples = cv2.GaussianBlur(grain, (0, 0), sigmaX=4.0, sigmaY=1.0)
    crowns = cv2.GaussianBlur(grain, (0, 0), 2.6) / 0.11  # deviation of white noise after this blur
    lit = ndimage.sobel(crowns, axis=1) * SHADOW[0] + ndimage.sobel(crowns, axis=0) * SHADOW[1]
    rows = 0.09 * np.sin(2 * np.pi * across / period) + 0.14 * tramlines - 0.15 * margin
    factor = 1 + field * (rows + 0.07 * wide + 0.05 * fine + 0.06 * grain)
    factor += road * (0.06 * fine + 0.03 * grain + 0.25 * line - 0.12 * (depth < 1.5))
    factor += building * (0.2 * slope + 0.04 * np.sin(2 * np.pi * ridge / 3.0) + 0.03 * grain)
    factor += water * (0.25 * ripples + 0.05 * wide) + site * (0.12 * rough + 0.06 * grain)
    factor += forest * (0.18 * np.clip(crowns, -1.5, 1.5) + 0.07 * np.clip(lit, -4, 4))
    canvas = np.array([(0.0, 0.0, 0.0), *(area.colour for area in areas)])[owners] * factor[..., None]
    shallow = water * np.exp(-ndimage.distance_transform_edt(water) / 9.0)
    canvas += shallow[..., None] * np.array([34.0, 30.0, 12.0])  # the ground shows near the shore
    shadow = np.zeros(size)
    for tall, length in ((building, 10), (forest, 5)):
        reach = np.zeros((2 * length + 1, 2 * length + 1), np.uint8)
        cv2.line(reach, (length, length), np.rint(length - length * SHADOW).astype(int).tolist(), 1)
        shadow = np.maximum(shadow, cv2.dilate(tall.astype(np.uint8), reach) * ~tall)
    shade = cv2.GaussianBlur(shadow, (0, 0), 0.8)[..., None]
    return canvas * (1 - shade * np.array([0.62, 0.58, 0.5]))  # the sky still lights shadows, in blue


class Limb(NamedTuple):
    """A chain of discs and what is between them: points (N, 2), radii (N,) in pixels, and colours (N, 3).

    >>> Limb(np.zeros((1, 2)), np.ones(1), np.zeros((1, 3))).keypoint
    ''
    """

    points: np.ndarray
    radii: np.ndarray
    colours: np.ndarray
    keypoint: str = ""  # of which it is the mark, centred on it
    fur: float = 0.0  # how ragged its edge is, in pixels
    soft: bool = False  # a marking on the limb below, without an edge of its own


def _build_limbs(coat: str, centre: Any, heading: float, unit: float, joints: Any, steps: Any) -> list[Limb]:
    """Build the limbs of a fox, what lies lowest first; each of `KEYPOINTS` has one mark among them.

    Its centre is a place (x, y), its heading in radians, clockwise; a unit of its body in pixels. Joints are turns of
    back, head, tail and the tail's tip in radians; steps how far left and right paws are ahead, -1 to 1, front first.

    >>> limbs = _build_limbs("red", (50, 40), 0.0, 1.0, (0, 0, 0, 0), (0, 0, 0, 0))
    >>> [(limb.keypoint, limb.points.mean(axis=0).round(1).tolist()) for limb in limbs if "left" in limb.keypoint]
    [('left_paw', [61.5, 26.5]), ('left_ear', [72.9, 28.8])]
    """
    fur, back, cream, socks, tip, ear = np.array(COATS[coat], np.float64)
    bend, turn, tail, curl = joints
    front, hind = heading + bend / 2, heading - bend / 2

    def place(joint: Any, places: Any) -> np.ndarray:  # of units ahead of a joint and to its left
        ahead = np.array([np.cos(joint[1]), np.sin(joint[1])])
        return joint[0] + unit * np.array(places, np.float64) @ np.stack([ahead, [ahead[1], -ahead[0]]])

    def arc(start: Any, direction: float, bend: float, length: float, count: int) -> np.ndarray:
        turns = direction + bend * (np.arange(count) + 0.5) / count
        steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length * unit / count
        return start + np.vstack([np.zeros(2), np.cumsum(steps, axis=0)])

    spine = arc(np.zeros(2), hind, bend, 26, 6)
    spine += centre - spine[3]
    neck, skull = place((spine[-1], front + 0.4 * turn), [(7, 0), (14.5, 0)])
    trunk, tail_root = np.vstack([spine, neck]), place((spine[0], hind), [(-6.5, 0)])[0]
    brush = arc(tail_root, hind + np.pi + tail, curl, 33, 8)
    hips, shoulders, head = (spine[0], hind), (spine[-1], front), (skull, front + turn)
    limbs: list[Limb] = []

    def add(joint: Any, places: Any, radii: list[float], colours: Any, keypoint: str = "", **look: Any) -> None:
        points = places if joint is None else place(joint, places)
        colours = np.broadcast_to(np.array(colours, np.float64), (len(points), 3))
        limbs.append(Limb(points, unit * np.array(radii), colours, keypoint, **look))

    for side, step in ((1, steps[2]), (-1, steps[3])):
        foot = -4 + 5.5 * step
        leg = [(1, side * 6), (-4 + 3 * step, side * 10), (foot, side * 12.5), (foot + 2, side * 12.8)]
        add(hips, leg, [5.2, 3.9, 3.0, 2.9], [fur, fur, socks, socks], fur=0.6)
    for side, step, name in ((1, steps[0], "left_paw"), (-1, steps[1], "right_paw")):
        foot = -1.5 + 6 * step
        leg = [(-4, side * 5), (-2.5 + 3 * step, side * 10.5), (foot, side * 13.5)]
        add(shoulders, leg, [4.4, 3.6, 2.8], [fur, fur, socks], fur=0.6)
        add(shoulders, [(foot - 1.7, side * 13.5), (foot + 1.7, side * 13.5)], [3.1, 3.1], socks, name)
    add(None, brush, [2.8, 3.8, 5.2, 6.5, 7.2, 7.2, 6.4, 4.6, 2.2], [fur] * 6 + [tip] * 3, fur=1.4)
    add(None, brush[-1:], [1.9], tip, "tail_tip")
    add(None, trunk, [8.2, 9.4, 9.8, 9.4, 9.0, 9.2, 9.0, 7.8], fur, fur=1.0)
    add(None, trunk, [4.6, 5.6, 6.0, 5.6, 5.4, 5.4, 5.4, 4.8], back, soft=True)
    add(hips, [(-7.4, 0), (-5.6, 0)], [1.8, 1.8], back, "tail_base")
    for side, name in ((1, "left_ear"), (-1, "right_ear")):
        flap = [(-3, side * 6.6), (-3.9, side * 9.8), (-5, side * 13.4), (-6, side * 17.1)]
        add(head, flap, [5.6, 4.9, 3.0, 0.6], [fur, fur, fur, socks], fur=0.4)
        add(head, [(-4.1, side * 9.5), (-5.1, side * 12.9)], [2.0, 2.0], ear, name)
    add(head, [(-2.5, 0), (1, 0), (5, 0), (10, 0), (14, 0)], [9.0, 10.0, 8.5, 4.5, 2.5], fur, fur=0.8)
    for side in (1, -1):
        add(head, [(3, side * 7.5), (8, side * 3.8), (12.5, side * 2)], [3.4, 3.0, 1.6], cream, soft=True)
        add(head, [(5, side * 4.3), (6.9, side * 3.8)], [1.5, 1.3], NOSE)
        add(head, [(6.6, side * 3.6)], [1.0], GLINT, soft=True)
    add(head, [(14.8, -0.5), (14.8, 0.5)], [2.0, 2.0], NOSE, "snout")
    return limbs


def _paint_limb(layer: np.ndarray, limb: Limb, sun: np.ndarray) -> np.ndarray:
    """Paint a limb on a layer (H, W, 4), as if it were round; return where it covers half of a pixel, bool (H, W).

    The layer holds red, green and blue, each times the share of the pixel that is painted, and that share.

    >>> disc, layer = Limb(np.array([[4.25, 3.5]]), np.array([2.0]), np.zeros((1, 3))), np.zeros((8, 9, 4))
    >>> int(_paint_limb(layer, disc, np.array([0, 0, 1.0])).sum()), round(float(layer[..., 3].sum()), 1)
    (10, 12.8)
    """
    covered = np.zeros(layer.shape[:2], bool)
    reach = limb.radii[:, None] + 5
    low = np.clip((limb.points - reach).min(axis=0), 0, layer.shape[1::-1]).astype(int)
    high = np.clip((limb.points + reach).max(axis=0), 0, layer.shape[1::-1]).astype(int)
    window = slice(low[1], high[1]), slice(low[0], high[0])
    y, x = np.mgrid[window] + 0.5
    points, radii, colours = (np.concatenate([values, values[-1:]]) for values in limb[:3])  # one disc is a chain too
    step = np.diff(points, axis=0)[..., None, None]
    away = np.stack([x, y]) - points[:-1, :, None, None]  # from the start of each piece, then from its axis
    length = np.sqrt(np.maximum((step**2).sum(axis=1), 1e-12))
    share = np.clip((away * step).sum(axis=1) / length**2, 0, 1)
    side = (step[:, 0] * away[:, 1] - step[:, 1] * away[:, 0]) / length
    away = away - share[:, None] * step
    radius = radii[:-1, None, None] + share * np.diff(radii)[:, None, None]
    distance = np.sqrt((away**2).sum(axis=1)) - radius  # to the edge, negative inside
    nearest = distance.argmin(axis=0)
    best = (nearest, *np.indices(nearest.shape))
    distance, side, share = distance[best], side[best], share[best]
    normal = (away / radius[:, None]).swapaxes(0, 1)[:, *best]
    colour = colours[nearest] + share[..., None] * np.diff(colours, axis=0)[nearest]
    hairs = HAIRS[((nearest + share) * length.mean()).astype(int) % 64, np.floor(1.5 * side).astype(int) % 64]
    flat = np.minimum((normal**2).sum(axis=0), 1.0)
    towards = 0.8 * (normal[0] * sun[0] + normal[1] * sun[1]) + np.sqrt(1 - 0.64 * flat) * sun[2]
    light = 0.66 + 0.44 * np.clip(towards, 0, 1) + 0.032 * hairs * (limb.fur > 0 or limb.soft)
    part = layer[window]
    if limb.soft:
        coverage = np.clip(-0.35 * distance, 0, 0.85) * part[..., 3]
    else:
        coverage = np.clip(0.5 - distance - 0.35 * limb.fur * hairs, 0, 1)
        covered[window] = coverage >= 0.5
        light *= np.interp(distance, (-1.4, 0), (1, 0.8))  # a dark rim
        part[..., :3] *= np.interp(distance, (-1.5, 3), (0.66, 1))[..., None]  # a soft shadow on what is below
    part *= 1 - coverage[..., None]
    part += np.dstack([colour * light[..., None], np.ones_like(light)]) * coverage[..., None]
    return covered


def _draw_foxes(
    generator: np.random.Generator, foxes: Sequence[tuple], ground: np.ndarray, light: np.ndarray, sun: np.ndarray
) -> Drawn:
    """Draw foxes, what lies lowest first, with shadows on a ground (H, W, 3) under light (H, W, 1 or 3).

    >>> rest = 0.0, 1.0, (0, 0, 0, 0), (0, 0, 0, 0)
    >>> pair = [("red", (40, 40), *rest), ("arctic", (100, 40), *rest)]  # the second stands on the first one's snout
    >>> flat, sun = np.zeros((80, 160, 3)), np.array([0, 0, 1.0])
    >>> _draw_foxes(np.random.default_rng(0), pair, flat, flat, sun)[1][0].visibility.tolist()  # its tail is outside
    [1, 2, 2, 2, 2, 2, 0]
    """
    size = ground.shape[:2]
    owners, topmost = np.zeros(size, np.int32), np.zeros(size, int)
    keypoints, marks = np.zeros((len(foxes), len(KEYPOINTS), 3)), np.zeros((len(foxes), len(KEYPOINTS)), int)
    for number, fox in enumerate(foxes):
        layer = np.zeros((*size, 4))
        for index, limb in enumerate(_build_limbs(*fox), 100 * (number + 1)):
            topmost[_paint_limb(layer, limb, sun)] = index
            if limb.keypoint:
                which = KEYPOINTS.index(limb.keypoint)
                keypoints[number, which, :2], marks[number, which] = limb.points.mean(axis=0).round(3), index
        above = layer[..., 3]
        owners[above >= 0.5] = number + 1
        fall = np.hstack([np.eye(2), -5 * fox[3] * sun[:2, None] / sun[2]])
        shadow = cv2.GaussianBlur(np.maximum(cv2.warpAffine(above, fall, size[::-1]), 0.6 * above), (0, 0), 2.0)
        lit = ground * (1 - shadow[..., None] * np.array([0.6, 0.56, 0.46]))
        ground = lit * (1 - above[..., None]) + layer[..., :3]
    inside = np.all((keypoints[..., :2] >= 0) & (keypoints[..., :2] < size[::-1]), axis=-1, keepdims=True)
    keypoints *= inside
    columns, rows, _ = np.moveaxis(keypoints.astype(int), -1, 0)
    keypoints[..., 2] = np.where(topmost[rows, columns] == marks, 2, 1) * inside[..., 0]
    image = np.clip(np.rint(ground * light + generator.normal(0, 1.7, (*size, 1))), 0, 255).astype(np.uint8)
    return image, _list_objects("fox", owners, keypoints)


def draw_photo(generator: np.random.Generator, size: tuple[int, int], ground: str) -> Drawn:
    """Draw an image (H, W, 3) of bytes with one to three foxes on one of `GROUNDS`, six keypoints of each in sight.

    >>> sorted({len(draw_photo(np.random.default_rng(seed), (128, 160), "sand")[1]) for seed in range(9)})
    [1, 2, 3]
    """
    background, light, sun = _draw_ground(generator, size, ground)
    warmth = generator.uniform(-0.05, 0.05) * np.array([1, 0.15, -1])  # from the blue of noon to the gold of evening
    light = light * generator.uniform(0.86, 1.1) * (1 + warmth)
    coats, wanted = generator.permutation(sorted(COATS)), generator.choice([1, 2, 3], p=[0.4, 0.4, 0.2])
    foxes: list[tuple] = []
    for _ in range(100):  # a small picture may not have room for all
        if len(foxes) == wanted:
            break
        centre = generator.uniform(0.15, 0.85, 2) * size[::-1]
        if foxes and generator.uniform() < 0.8:  # near another, which it may touch
            turn, distance = generator.uniform((0, 28), (2 * np.pi, 60))
            centre = foxes[-1][1] + distance * np.array([np.cos(turn), np.sin(turn)])
        heading, unit = generator.uniform((0, 0.95), (2 * np.pi, 1.4))
        joints = generator.normal(0, (0.4, 0.3, 0.3, 0.8)).clip(-1.4, 1.4)
        fox = (coats[len(foxes)], centre, heading, unit, joints, generator.uniform(-1, 1, 4))
        image, objects = _draw_foxes(generator, [*foxes, fox], background, light, sun)
        if all((thing.visibility == 2).sum() >= 6 for thing in objects):
            foxes.append(fox)
            accepted = image, objects
    return accepted


def draw_chase(generator: np.random.Generator, frames: int, size: tuple[int, int]) -> Iterator[Drawn]:
    """Yield images (H, W, 3) of bytes of two foxes along a figure of eight; they cover each other where it crosses.

    >>> first, second = draw_chase(np.random.default_rng(0), 2, (128, 160))
    >>> [[thing.track_id for thing in objects] for _, objects in (first, second)]
    [[1, 2], [1, 2]]
    """
    background, light, sun = _draw_ground(generator, size, "grass")
    middle, reach = np.array(size[::-1]) / 2, np.array([0.36 * size[1], 0.28 * size[0]])
    begin, unit = generator.uniform(0, 2 * np.pi), 1.05 * min(size) / 192
    for time in np.arange(frames) / FPS:
        foxes = []
        for coat, start in (("red", begin), ("arctic", begin + 2.75)):
            angle, phase = start + 0.8 * time, start + 2 * np.pi * 1.7 * time
            ahead = reach * [-np.sin(angle), 2 * np.cos(2 * angle)]
            bend, sway, swing = 0.8 * np.cos(angle), np.cos(phase), np.sin(phase)  # bends as the path does
            tail, curl = 0.2 * np.sin(phase - 1) - 0.3 * bend, 0.45 * np.sin(phase - 2) - 0.6 * bend
            joints, steps = (bend + 0.1 * sway, 0.4 * bend, tail, curl), (swing, -swing, -swing, swing)
            centre, heading = middle + reach * [np.cos(angle), np.sin(2 * angle)], np.arctan2(ahead[1], ahead[0])
            foxes.append((coat, centre, heading + 0.04 * sway, unit, joints, steps))
        yield _draw_foxes(generator, foxes, background, light, sun)


def _draw_ground(generator: np.random.Generator, size: tuple[int, int], kind: str) -> tuple[np.ndarray, ...]:
    """Draw what foxes walk on (H, W, 3), the light (H, W, 1), and the direction to the sun: x, y and up (3,).

    >>> colours = [_draw_ground(np.random.default_rng(0), (60, 80), kind)[0].mean(axis=(0, 1)) for kind in GROUNDS]
    >>> [int(colour.argmax()) for colour in colours]  # grass is green; pebbles and sand are warm
    [1, 0, 0]
    """

    def fixed(place: np.ndarray) -> list[int]:  # sixteenths of a pixel, from the centre of the first one
        return np.rint((place - 0.5) * 16).astype(int).tolist()

    side, up = generator.uniform((0, 0.65), (2 * np.pi, 0.9))  # well above the horizon
    sun = np.array([*(np.sqrt(1 - up**2) * np.array([np.cos(side), np.sin(side)])), up])
    base = np.array(GROUNDS[kind]) * generator.uniform(0.92, 1.06) + generator.uniform(-6, 6, 3)
    damp = 0.05 * _draw_noise(generator, size, 50.0) + 0.05 * _draw_noise(generator, size, 5.0)
    canvas = np.clip(base * (1 + damp[..., None]), 0, 255).astype(np.uint8, order="C")
    if kind == "sand":
        turn, period = generator.uniform((0, 11), (2 * np.pi, 17))
        y, x = np.indices(size)
        path = x * np.cos(turn) + y * np.sin(turn) + 5.5 * _draw_noise(generator, size, 38.0)
        canvas = canvas * (1 + 0.075 * np.cos(2 * np.pi * path / period))[..., None]
    elif kind == "pebbles":
        for middle in generator.uniform(0, size[::-1], (size[0] * size[1] // 70, 2)):
            axes, turn = generator.uniform(3.5, 8, 2), generator.uniform(0, 180)
            stone = generator.uniform(112, 186) * (1 + generator.uniform(-0.5, 1.2) * np.array([0.09, 0.02, -0.09]))
            for share, shift, light in ((1.15, -0.8, 0.45), (1.0, 0.0, 0.8), (0.8, 0.5, 0.95), (0.5, 1.2, 1.06)):
                place, radii = fixed(middle + shift * sun[:2]), fixed(share * axes + 0.5)
                cv2.ellipse(canvas, place, radii, turn, 0, 360, (stone * light).tolist(), -1, cv2.LINE_AA, 4)
    else:
        wind = generator.uniform(0, 2 * np.pi)
        for root in generator.uniform(-4, (size[1] + 4, size[0] + 4), (size[0] * size[1] // 24, 2)):
            turn, length = generator.normal(wind, 0.7), generator.uniform(3, 9)
            green = base * generator.uniform(0.74, 1.24) + generator.uniform(0, 18) * np.array([1, 0.6, 0])
            tip = root + length * np.array([np.cos(turn), np.sin(turn)])
            cv2.line(canvas, fixed(root), fixed(tip), green.tolist(), 1, cv2.LINE_AA, 4)
        for middle in generator.uniform(0, size[::-1], (generator.poisson(size[0] * size[1] / 9000), 2)):  # daisies
            turns = generator.uniform(0, 2) + np.arange(6) * np.pi / 3
            petals = [(middle + 2.1 * np.array([np.cos(turn), np.sin(turn)]), 20, (246, 244, 236)) for turn in turns]
            for place, radius, colour in [(middle + 1, 50, (52, 80, 40)), *petals, (middle, 20, (240, 194, 56))]:
                cv2.circle(canvas, fixed(place), radius, colour, -1, cv2.LINE_AA, 4)
    grain = 1 + 0.02 * generator.standard_normal((*size, 1))
    return canvas * grain, 1 + 0.12 * _draw_noise(generator, size, 0.9 * max(size))[..., None], sun
