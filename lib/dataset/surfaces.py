"""Rendered surfaces with defects: camera-like pictures, exact masks and a defect-free twin of each.

A picture starts as a `Scene` of physical maps (albedo, height, gloss). A surface function builds one, a
defect function changes it in one place, and one light, one camera and one noise field turn both into
pictures: they differ by the defect and by nothing else. All randomness comes from the generator passed in.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, cos, hypot, pi, sin, tan

import cv2
import numpy as np
from numpy.random import Generator

# Sensor noise here deviates by 1 to 3 grey levels: a change of 6 is the least that one can point at.
VISIBLE = 6 / 255
# A mask whose mean change is below this would be a label for something that nobody sees.
MIN_CONTRAST = 14 / 255
# Islands below this area are flecks of texture, pinholes below it are places where texture hides the defect.
MIN_ISLAND = 6
# The invisible rest of a change fades out within this many px of the mask; beyond them the twins are equal.
HALO = 4


@dataclass(frozen=True)
class Scene:
    """A surface as physical maps, all (H, W), x to the right, y down, angles in radians.

    `beneath` is what shows where material is missing (None: darkness). `pitch` is the yarn spacing in px,
    0 for anything but a textile. `grain` is the direction of brushing, of yarn or of fibre.
    """

    albedo: np.ndarray  # (H, W, 3) float32, linear reflectance 0..1
    height: np.ndarray  # float32, px, up is positive
    gloss: np.ndarray  # float32, 0..1 strength of the specular reflection
    foreground: np.ndarray  # bool, where the object is
    shininess: float = 30.0
    grain: float = 0.0
    anisotropic: bool = False
    metal: bool = False
    pitch: float = 0.0
    beneath: "Scene | None" = None


@dataclass(frozen=True)
class Light:
    """A lamp at `distance` picture sides, under `azimuth`, `elevation` (radians), and a dome of light."""

    azimuth: float
    elevation: float
    ambient: float = 0.35
    distance: float = 2.5
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Camera:
    """Exposure, corner darkening (0..1), lens blur (px), noise (of 255: constant, and at full signal)."""

    exposure: float = 1.0
    vignetting: float = 0.1
    blur: float = 0.7
    read: float = 0.8
    shot: float = 1.6
    mono: bool = False


@dataclass(frozen=True)
class Pair:
    """One picture with a defect, its defect-free twin, and where they visibly differ."""

    normal: np.ndarray  # (H, W, 3) uint8
    defect: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) bool
    foreground: np.ndarray  # (H, W) bool
    surface: str
    defect_type: str


# ----------------------------------------------------------------------------------------------------
# Building blocks


def noise(rng: Generator, shape: tuple[int, int], scale: float, stretch: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """Smooth noise, (H, W) float32, mean 0, deviation about 1.

    Features measure about `scale` px, and `stretch` times that along `angle`.
    """
    side = hypot(*shape)
    rows, columns = ceil(side / scale) + 5, ceil(side / (scale * stretch)) + 5
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    c, s = cos(angle), sin(angle)
    turn = np.array([[c / (scale * stretch), s / (scale * stretch)], [-s / scale, c / scale]])
    # The picture's centre falls on the grid's centre, moved by a fraction of a cell.
    offset = np.array([columns / 2, rows / 2]) + rng.uniform(-1, 0, 2) - turn @ [shape[1] / 2, shape[0] / 2]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return 1.3 * cv2.warpAffine(grid, np.column_stack([turn, offset]), shape[::-1], flags=flags, borderMode=2)


def fractal(rng: Generator, shape: tuple[int, int], scale: float, octaves: int = 3) -> np.ndarray:
    """Noise summed over octaves from `scale` px downwards, (H, W) float32, deviation about 1."""
    return sum(noise(rng, shape, max(scale / 2**k, 1.0)) * 0.85 * 0.55**k for k in range(octaves))


def plane(shape: tuple[int, int], centre: tuple[float, float], angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (u, v), each (H, W) float32 px, about `centre` (x, y), with u along `angle`."""
    x = np.arange(shape[1], dtype=np.float32)[None] - np.float32(centre[0])
    y = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(centre[1])
    return x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle)


def step(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _rgb(values: np.ndarray) -> np.ndarray:
    """The same (H, W) float32 in three channels; numpy is slow at broadcasting over a last axis of 3."""
    values = values.astype(np.float32, copy=False)
    return cv2.merge((values, values, values))


def _coloured(tone: np.ndarray, colour: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """tone (H, W) in a colour (3,), as (H, W, 3) float32."""
    tone = tone.astype(np.float32, copy=False)
    return cv2.merge([tone * float(c) for c in colour])


def mix(a: Scene, b: Scene, alpha: np.ndarray) -> Scene:
    """`a` where alpha (H, W) is 0, the maps of `b` where it is 1; everything else as in `a`."""
    albedo = a.albedo + (b.albedo - a.albedo) * _rgb(alpha)
    return replace(
        a,
        albedo=albedo,
        height=a.height + (b.height - a.height) * alpha,
        gloss=a.gloss + (b.gloss - a.gloss) * alpha,
    )


def _scene(albedo: np.ndarray, height: np.ndarray, gloss: np.ndarray | float, **rest: object) -> Scene:
    """A scene that fills the picture, with its maps brought to their types and ranges."""
    gloss = np.broadcast_to(np.clip(gloss, 0, 1).astype(np.float32), height.shape)
    albedo = np.clip(albedo, 0.004, 0.96).astype(np.float32)
    return Scene(albedo, height.astype(np.float32), gloss, np.ones(height.shape, bool), **rest)


# ----------------------------------------------------------------------------------------------------
# Surfaces: each takes the generator, the shape (H, W) and a linear RGB colour, and returns a Scene


def brushed(rng, shape, colour, angle=0.0, width=1.1, length=70.0, contrast=0.25, gloss=0.5, shininess=30.0) -> Scene:
    """Brushed metal: streaks `width` px wide and about `length` px long along `angle`."""
    fine = noise(rng, shape, width, length / width, angle)
    coarse = noise(rng, shape, 3.2 * width, length / width, angle)
    broad = noise(rng, shape, 14 * width, 12, angle)
    # A few strokes bit deeper than the rest.
    deep = np.maximum(noise(rng, shape, 1.3 * width, 1.8 * length / width, angle) - 1.7, 0)
    streaks = 0.8 * fine + 0.4 * coarse + 0.3 * broad
    albedo = _coloured(1 + contrast * (0.45 * streaks - 0.5 * deep), colour)
    height = contrast * (0.3 * fine + 0.25 * coarse - 0.8 * deep)
    shine = gloss * (1 + contrast * (streaks + deep))
    return _scene(albedo, height, shine, shininess=shininess, grain=angle, anisotropic=True, metal=True)


def woven(
    rng,
    shape,
    colour,
    weft=None,
    angle=0.0,
    pitch=8.0,
    over=1,
    fill=0.9,
    relief=0.28,
    variation=0.1,
    fuzz=0.06,
) -> Scene:
    """Cloth with yarns every `pitch` px, each passing over `over` others (1 plain, 2 or more twill)."""
    u, v = plane(shape, (shape[1] * rng.uniform(0.3, 0.7), shape[0] * rng.uniform(0.3, 0.7)), angle)
    # Cloth never lies quite straight.
    u = (u + 0.25 * pitch * noise(rng, shape, 6 * pitch) + 0.05 * pitch * noise(rng, shape, pitch)) / pitch + 500
    v = (v + 0.25 * pitch * noise(rng, shape, 6 * pitch) + 0.05 * pitch * noise(rng, shape, pitch)) / pitch + 500
    i, j = u.astype(np.int32), v.astype(np.int32)
    across_warp, across_weft = 2 * (u - i) - 1, 2 * (v - j) - 1
    period, lead = 2 * over, (over - 1) / 2
    thickness = fill * (1 + 0.09 * rng.standard_normal((2, 1024))).astype(np.float32)
    tone = (1 + variation * rng.standard_normal((2, 1024))).astype(np.float32)
    round_warp = np.sqrt(np.maximum(1 - (across_warp / thickness[0][i]) ** 2, 0))
    round_weft = np.sqrt(np.maximum(1 - (across_weft / thickness[1][j]) ** 2, 0))
    # A yarn rises where it crosses over and dives where it crosses under; the higher of the two is seen.
    wave_warp = np.cos(2 * pi / period * (v - 0.5 - i - lead))
    wave_weft = -np.cos(2 * pi / period * (j - u + 0.5 - lead))
    top_warp, top_weft = round_warp * (1.5 + wave_warp), round_weft * (1.5 + wave_weft)
    warp_up = top_warp > top_weft
    twist = np.where(warp_up, across_warp * 0.9 + 2.6 * v, across_weft * 0.9 + 2.6 * u)
    top = np.maximum(top_warp, top_weft)
    fibres = noise(rng, shape, 1.0)
    height = relief * pitch * (top * 0.4 + 0.05 * np.sin(2 * pi * twist)) + fuzz * fibres
    warp, weft = np.asarray(colour, np.float32), np.asarray(colour if weft is None else weft, np.float32)
    shade_of_yarn = np.where(warp_up, tone[0][i], tone[1][j]) * (1 + 0.9 * fuzz * fibres) * step(0.25 + top)
    albedo = np.where(warp_up[..., None], warp, weft) * _rgb(shade_of_yarn)
    return _scene(albedo, height, 0.06 * top / 2.5, shininess=8.0, grain=angle, pitch=pitch)


def cast(rng, shape, colour, scale=10.0, relief=0.5, speckle=0.12, pits=0.5, gloss=0.15, metal=True) -> Scene:
    """Cast, sand-blasted or stony surface: fractal relief with pits, features of `scale` px."""
    rough = fractal(rng, shape, scale, 4)
    grit = noise(rng, shape, 1.0)
    pit = np.maximum(noise(rng, shape, 0.35 * scale + 1) - 1.5, 0)
    tone = 1 + speckle * (0.5 * rough + 0.6 * grit) - 0.35 * pits * pit
    height = relief * (rough + 0.35 * grit) - 1.6 * pits * relief * pit
    albedo = _coloured(tone, colour)
    return _scene(albedo, height, gloss * (1 + 0.3 * grit), shininess=12.0, metal=metal)


def painted(rng, shape, colour, peel=0.08, scale=6.0, flakes=0.0, gloss=0.35, shininess=60.0) -> Scene:
    """Paint, lacquer or plastic: a smooth coat with orange peel `peel` px high, perhaps with metal flakes."""
    tone = 1 + 0.03 * noise(rng, shape, 70) + flakes * noise(rng, shape, 1.0)
    height = peel * (noise(rng, shape, scale) + 0.25 * noise(rng, shape, 1.5))
    return _scene(_coloured(tone, colour), height, gloss, shininess=shininess)


def leather(rng, shape, colour, cell=9.0, relief=0.9, gloss=0.2) -> Scene:
    """Leather: rounded cells of about `cell` px between creases."""
    margin = ceil(cell)
    side = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    rows, columns = ceil(side[0] / cell), ceil(side[1] / cell)
    seeds = np.indices((rows, columns)).reshape(2, -1) + rng.uniform(0.0, 1.0, (2, rows * columns))
    seeds = np.minimum((seeds * cell).astype(int), np.array(side)[:, None] - 1)
    empty = np.full(side, 255, np.uint8)
    empty[seeds[0], seeds[1]] = 0
    labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    crease = np.ones(side, np.uint8)
    crease[:-1][labels[:-1] != labels[1:]] = 0
    crease[:, :-1][labels[:, :-1] != labels[:, 1:]] = 0
    away = cv2.GaussianBlur(cv2.distanceTransform(crease, cv2.DIST_L2, 5), (0, 0), 0.8)
    # Bending the coordinates takes the straight edges away.
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    x += margin + 0.22 * cell * noise(rng, shape, 0.7 * cell)
    y += margin + 0.22 * cell * noise(rng, shape, 0.7 * cell)
    away = cv2.remap(away, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    dome = 1 - np.exp(-((away / (0.22 * cell)) ** 2))
    height = relief * (dome + 0.12 * noise(rng, shape, 1.5) + 0.3 * noise(rng, shape, 3 * cell))
    tone = (0.62 + 0.38 * dome) * (1 + 0.07 * noise(rng, shape, 5 * cell) + 0.04 * noise(rng, shape, 1.0))
    return _scene(_coloured(tone, colour), height, gloss * dome, shininess=22.0)


def wood(rng, shape, colour, angle=0.0, period=14.0, contrast=0.35, gloss=0.1) -> Scene:
    """Planed wood: growth rings cut lengthwise along `angle`, with dark pores."""
    across = plane(shape, (0, 0), angle)[1] + 1.1 * period * noise(rng, shape, 2.5 * period, 4, angle)
    phase = (across / period + 0.25 * noise(rng, shape, 0.7 * period, 9, angle)) % 1.0
    # Early wood darkens slowly into late wood, which ends abruptly.
    ring = phase**2 * step((1 - phase) * 6)
    pores = np.maximum(noise(rng, shape, 1.0, 18, angle) - 1.1, 0)
    fibre = noise(rng, shape, 1.0, 30, angle)
    tone = 1 - contrast * (0.9 * ring + 0.35 * pores) + 0.05 * fibre + 0.05 * noise(rng, shape, 30, 2, angle)
    albedo = np.asarray(colour, np.float32) ** (1 + 0.5 * contrast * ring[..., None]) * tone[..., None]
    return _scene(albedo, 0.12 * fibre - 0.35 * pores, gloss, shininess=16.0, grain=angle)


def part(
    rng,
    backdrop: Scene,
    colour,
    centre=(64.0, 64.0),
    radius=50.0,
    angle=0.0,
    sides=6,
    hole=0.5,
    thread=0.0,
    thickness=12.0,
    bevel=2.0,
    chamfer=0.0,
    finish=0.15,
    turned=0.5,
    gloss=0.45,
    shininess=26.0,
) -> Scene:
    """A flat metal part on `backdrop`: nut, washer, disc, ring or polygon.

    radius: px to a side's middle. sides: 0 for a disc. hole: bore radius over radius, 0 for none. thread:
    depth of the thread over bore radius. bevel: px of rounding along the outline. chamfer: slope of the
    turned cone that cuts the corners of a nut. finish: roughness of the faces; turned: how much of it is
    concentric.
    """
    shape = backdrop.height.shape
    u, v = plane(shape, centre, angle)
    r = np.sqrt(u * u + v * v) + 1e-3
    if sides:
        sector = 2 * pi / sides
        theta = np.arctan2(v, u)
        inside = radius - r * np.cos((theta + sector / 2) % sector - sector / 2)
    else:
        theta, inside = np.arctan2(v, u), radius - r
    rings = rng.standard_normal((1, 2048)).astype(np.float32)
    rings = 0.6 * rings + cv2.GaussianBlur(rings, (0, 0), 2.5) * 1.5
    turning = rings[0][np.minimum(r * 1.5, 2046).astype(np.int32)] * (0.7 + 0.3 * np.cos(theta + rings[0, 0]))
    grit, mottle = noise(rng, shape, 1.2), fractal(rng, shape, 24, 3)
    texture = turned * turning + (1 - turned) * (grit + 0.6 * mottle)
    height = thickness - 0.5 * np.maximum(bevel - inside, 0) ** 2 / bevel
    height -= chamfer * np.maximum(r - 0.97 * radius, 0)
    tone = 1 + finish * (0.35 * texture + 0.3 * mottle)
    bore = hole * radius
    if bore:
        lip = 0.07 * bore + 1
        height -= np.maximum(bore + lip - r, 0) * 0.8
    body = height + 0.5 * finish * texture
    # Edges are polished by handling; low places keep their oxide and dirt.
    edge = np.clip(height - cv2.GaussianBlur(height, (0, 0), 0.02 * radius + 1), -1.5, 1.5)
    tone = tone * (1 + 0.12 * edge)
    material = step(inside + 0.5)
    if bore and thread:
        down = np.clip((bore - r) / (thread * bore), 0, 1)
        turns = 3.5 * down + theta / (2 * pi)
        body -= 0.55 * thickness * down - 0.022 * radius * np.sin(2 * pi * turns) * (down > 0)
        tone = tone * (1 - 0.55 * down + 0.25 * np.sin(2 * pi * turns) * (down > 0))
    if bore:
        material = material * step(r - bore * (1 - thread) + 0.5)
    albedo = np.clip(_coloured(tone, colour), 0.004, 0.96).astype(np.float32)
    shine = np.clip(gloss * (1 + finish * texture) * np.clip(tone, 0.2, 1.2), 0, 1).astype(np.float32)
    body = Scene(albedo, body.astype(np.float32), shine, material > 0.5)
    lit = mix(backdrop, body, material.astype(np.float32))
    return replace(lit, foreground=body.foreground, shininess=shininess, metal=True, beneath=backdrop)


# ----------------------------------------------------------------------------------------------------
# Defects: each takes the scene, the generator, the centre (x, y), the extent `size` in px and a `strength` of
# about 1, and returns the changed scene


def _blob(rng, shape, centre, size: float, ragged: float, angle: float | None = None) -> np.ndarray:
    """Distance-like field (H, W): 0 at the centre of an irregular patch `size` px long, 1 on its outline."""
    u, v = plane(shape, centre, rng.uniform(0, pi) if angle is None else angle)
    shortness = rng.uniform(0.5, 1.0)
    q = np.sqrt((u / (size / 2)) ** 2 + (v / (size / 2 * shortness)) ** 2)
    wobble = noise(rng, shape, max(size / 3, 2)) + 0.5 * noise(rng, shape, max(size / 8, 1.5))
    return q * (1 + ragged * np.clip(wobble, -2, 2))


def _curve(rng, centre, length: float, angle: float, bend: float, jag: float = 0.0) -> np.ndarray:
    """Points (N, 2) px along a bent, possibly jagged line through `centre`."""
    count = int(np.clip(length / 3, 6, 60))
    t = np.linspace(-0.5, 0.5, count)
    bow, snake = bend * rng.uniform(-1, 1, 2)
    side = bow * (4 * t * t - 0.33) + 0.3 * snake * np.sin(2 * pi * t)
    if jag:  # broken material goes in straight runs of uneven length
        t = np.sort(np.concatenate([[-0.5, 0.5], rng.uniform(-0.5, 0.5, count - 2)]))
        walk = np.cumsum(rng.standard_normal(count)) / np.sqrt(count)
        side = side + jag * (walk - walk.mean()) + 0.2 * jag * rng.standard_t(3, count) / np.sqrt(count)
    u, v = length * t, length * side
    x, y = u * cos(angle) - v * sin(angle), u * sin(angle) + v * cos(angle)
    return np.stack([x + centre[0], y + centre[1]], 1)


def _stroke(shape, points: np.ndarray, widths: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Coverage (H, W) float32 0..1 of a line through points (N, 2), `widths` (N,) px; drawn at twice size."""
    canvas = np.zeros((2 * shape[0], 2 * shape[1]), np.uint8)
    ends = np.round((2 * points + 0.5) * 16).astype(int).tolist()
    levels = np.full(len(points), 255) if values is None else np.clip(255 * values, 0, 255).astype(int)
    for k in range(len(points) - 1):
        thick = max(1, round(2 * float(widths[k])))
        cv2.line(canvas, ends[k], ends[k + 1], int(levels[k]), thick, cv2.LINE_AA, 4)
    return cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _tinted(scene: Scene, factor: np.ndarray, colour=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Albedo (H, W, 3) multiplied by 1 + factor * colour, kept within 0.004..0.96."""
    return np.clip(scene.albedo * (1 + _coloured(factor, colour)), 0.004, 0.96)


def scratch(scene, rng, centre, size, strength=1.0, width: float | None = None) -> Scene:
    """A thin bent groove with burrs along its sides, pressed unevenly; hair-thin to 4 px wide."""
    shape = scene.height.shape
    width = min(0.5 + rng.exponential(0.8), 4.0) if width is None else width
    points = _curve(rng, centre, size, rng.uniform(0, pi), float(rng.choice([0.02, 0.08, 0.3])))
    t = np.linspace(0, 1, len(points))
    press = np.clip(
        (4 * t * (1 - t)) ** 0.4 * (0.8 + 0.35 * np.sin(9 * t * rng.uniform(0.3, 1) + rng.uniform(0, 6))),
        0,
        1,
    )
    groove = _stroke(shape, points, width * (0.5 + 0.5 * press), press)
    if rng.random() < 0.3:  # a second line where the tool skipped along
        shift = rng.normal(0, 2.5 + width, 2)
        part_of = slice(0, max(3, int(len(points) * rng.uniform(0.3, 0.9))))
        groove = np.maximum(groove, 0.7 * _stroke(shape, points[part_of] + shift, width * 0.6 * press, press))
    burr = np.maximum(cv2.GaussianBlur(groove, (0, 0), 0.6 + 0.5 * width) - 0.6 * groove, 0)
    # Fresh metal is brighter than its weathered skin; torn paint or plastic whitens, or the ground shows.
    bright = rng.uniform(0.2, 0.9) * (1 if rng.random() < 0.65 else -0.75)
    gloss = np.clip(scene.gloss * (1 + strength * bright * groove), 0, 1)
    height = scene.height + strength * (0.7 * burr - rng.uniform(0.4, 1.0) * groove) * (0.5 + 0.5 * width)
    return replace(scene, albedo=_tinted(scene, strength * (bright * groove + 0.2 * burr)), gloss=gloss, height=height)


def dent(scene, rng, centre, size, strength=1.0) -> Scene:
    """A smooth dimple (or, more rarely, a bump) that only its shading shows."""
    q = _blob(rng, scene.height.shape, centre, size, 0.0)
    q = q * (1 + 0.08 * noise(rng, q.shape, max(size / 2, 8)))
    depth = strength * size * rng.uniform(0.06, 0.14) * (1 if rng.random() < 0.75 else -1)
    bowl = np.maximum(1 - q * q, 0) ** 2
    rim = np.exp(-(((q - 1.0) / 0.18) ** 2))
    return replace(scene, height=(scene.height - depth * (bowl - 0.08 * rim)).astype(np.float32))


def stain(scene, rng, centre, size, strength=1.0) -> Scene:
    """A dried spill: irregular outline, soft edge, darker rim, now and then a few droplets beside it."""
    shape = scene.height.shape
    q = _blob(rng, shape, centre, 0.9 * size, rng.uniform(0.1, 0.3))
    for _ in range(rng.integers(0, 4) if size > 16 else 0):
        away, at = size * rng.uniform(0.4, 0.5), rng.uniform(0, 2 * pi)
        spot = (centre[0] + away * cos(at), centre[1] + away * sin(at))
        q = np.minimum(q, _blob(rng, shape, spot, max(3.0, size * rng.uniform(0.05, 0.15)), 0.1))
    soft = rng.uniform(0.08, 0.35)
    film = step((1 - q) / soft + 0.5)
    rim = np.exp(-(((q - 1 + 0.5 * soft) / (0.4 * soft + 0.04)) ** 2)) * rng.uniform(0.0, 0.7)
    pooled = film * (0.75 + 0.2 * noise(rng, shape, max(size / 4, 3))) + rim
    # Oil, rust, ink, water: all take light away, most of it in the blue.
    hue = np.sort(rng.uniform(0.55, 1.0, 3)) ** rng.choice([0.3, 1.0])
    hue = rng.permutation(hue) if rng.random() < 0.12 else hue
    albedo = _tinted(scene, -np.clip(strength * rng.uniform(0.25, 0.75) * pooled, 0, 0.9), hue)
    gloss = np.clip(scene.gloss * (1 - film * strength * rng.uniform(-0.2, 0.6)), 0, 1)
    return replace(scene, albedo=albedo, gloss=gloss)


def crack(scene, rng, centre, size, strength=1.0) -> Scene:
    """A jagged dark fissure that thins out and branches."""
    shape = scene.height.shape
    angle, width = rng.uniform(0, 2 * pi), rng.uniform(0.4, 1.1) * (1 + size / 120)
    trunk = _curve(rng, centre, size, angle, 0.1, rng.uniform(0.1, 0.3))
    taper = np.linspace(1, 0.3, len(trunk)) * rng.uniform(0.5, 1.4, len(trunk))
    gap = _stroke(shape, trunk, width * taper, taper + 0.2)
    for _ in range(rng.integers(0, 4)):
        at = rng.integers(1, len(trunk) - 1)
        length, turn = size * rng.uniform(0.15, 0.4), angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
        branch = _curve(rng, (0, 0), length, turn, 0.1, 0.3)
        branch = branch - branch[0] + trunk[at]
        thin = np.linspace(0.7, 0.3, len(branch)) * taper[at]
        gap = np.maximum(gap, _stroke(shape, branch, width * thin, thin + 0.3))
    lips = np.maximum(cv2.GaussianBlur(gap, (0, 0), 1.2) - 0.6 * gap, 0)
    albedo = _tinted(scene, np.clip(0.15 * lips - 0.85 * strength * gap, -0.93, 1))
    height = scene.height - min(strength, 2) * (0.4 + 0.5 * width) * gap + 0.15 * lips
    return replace(scene, albedo=albedo, height=height, gloss=scene.gloss * (1 - np.clip(strength * gap, 0, 1)))


def _missing(scene: Scene, drop: float) -> Scene:
    """What shows where the material is gone: the scene beneath, or darkness `drop` px below."""
    if scene.beneath is not None:
        return scene.beneath
    dark = np.full(scene.height.shape, scene.height.min() - drop, np.float32)
    return replace(scene, albedo=0.06 * scene.albedo + 0.006, height=dark, gloss=np.zeros_like(dark))


def hole(scene, rng, centre, size, strength=1.0) -> Scene:
    """A hole right through, with a raised rim, or with frayed yarn ends in a textile."""
    shape = scene.height.shape
    ragged = 0.12 if scene.pitch else rng.uniform(0.0, 0.1)
    q = _blob(rng, shape, centre, 0.85 * size if scene.pitch else size, ragged)
    edge = size / 2 * (1 - q)  # px inside the outline, roughly
    if scene.pitch:  # yarns end one by one
        edge = edge + 0.35 * scene.pitch * noise(rng, shape, 0.6 * scene.pitch)
    rim = np.exp(-((edge / (1.2 + 0.03 * size)) ** 2)) * rng.uniform(0.2, 1.0) * strength
    bent = replace(scene, height=scene.height + rim, albedo=_tinted(scene, 0.15 * rim))
    # Inside the outline comes the wall, rough and lit from one side, and then what lies beneath.
    wall = 0.3 if scene.pitch else rng.uniform(0.8, 1.5) + 0.04 * size
    rough = fractal(rng, shape, 3.0, 2)
    cut = replace(scene, albedo=_tinted(scene, 0.2 * rough - 0.25), height=scene.height - 1.3 * np.maximum(edge, 0))
    bent = mix(bent, replace(cut, gloss=0.4 * scene.gloss), step(edge + 0.5).astype(np.float32))
    through = step((edge - wall + 0.4 * rough) / 1.5 + 0.5).astype(np.float32)
    result = mix(bent, _missing(scene, 3 + 0.1 * size), through)
    for _ in range(int(4.5 * size / scene.pitch) if scene.pitch else 0):
        at, along = rng.uniform(0, 2 * pi), scene.grain + rng.choice([0.0, pi / 2])
        start = np.array([cos(at), sin(at)]) * size * rng.uniform(0.36, 0.48)
        inward = np.array([cos(along), sin(along)])
        inward = -inward if inward @ start > 0 else inward
        reach = np.linspace(0, min(rng.exponential(0.22) + 0.08, 0.5) * size, 7)
        curl = rng.normal(0, 0.35) * reach**2 / (size + 1)
        points = np.asarray(centre) + start + np.outer(reach, inward) + np.outer(curl, inward[::-1] * (1, -1))
        x, y = np.clip(points[0].astype(int), 0, np.array(shape[::-1]) - 1)
        patch = scene.albedo[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].reshape(-1, 3).mean(0)
        width = scene.pitch * rng.uniform(0.08, 0.4) * np.linspace(1, 0.4, 7)
        fibre = _stroke(shape, points, width)
        top = scene.height.mean() + 0.12 * scene.pitch * fibre
        yarn = replace(scene, albedo=np.broadcast_to(patch * rng.uniform(0.7, 1.15), scene.albedo.shape), height=top)
        result = mix(result, yarn, fibre)
    return result


def thread(scene, rng, centre, size, strength=1.0, colour=None) -> Scene:
    """A loose yarn or hair lying on top, twisted, with its own round shading; it shadows what it lies on."""
    shape = scene.height.shape
    width = rng.uniform(0.8, 1.8) * (1 + 0.2 * strength) if rng.random() < 0.6 else rng.uniform(1.8, 3.6)
    angle = rng.uniform(0, 2 * pi)
    t = np.linspace(0, 1, 48)
    # Curvature wanders, as in a yarn that was dropped; some curl into a loop.
    heading = angle + np.cumsum(cv2.GaussianBlur(rng.standard_normal((1, 48)), (0, 0), 6)[0]) * rng.uniform(0.15, 0.7)
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0)
    points *= size / max(np.ptp(points, 0).max(), 1e-3)
    points += np.asarray(centre) - (points.max(0) + points.min(0)) / 2
    cover = _stroke(shape, points, np.full(48, width) * (1 + 0.12 * np.sin(40 * t)))
    inside = cv2.distanceTransform((cover > 0.3).astype(np.uint8), cv2.DIST_L2, 5)
    roundness = np.sqrt(1 - (1 - np.clip(inside / (0.5 * width + 0.7), 0, 1)) ** 2)
    if colour is None:
        value = rng.uniform(0.02, 0.85)
        colour = np.clip(value * (1 + rng.uniform(-0.6, 0.6, 3) * (rng.random() < 0.6)), 0.01, 0.9)
    u, v = plane(shape, centre, angle + 0.9)
    ply = 1 + 0.22 * np.sin((u + 0.3 * v) * 2 * pi / (1.1 * width + 0.8)) + 0.12 * noise(rng, shape, 1.0)
    ply *= 0.72 + 0.28 * roundness
    lying = cv2.GaussianBlur(scene.height, (0, 0), 2.0) + 0.4 * width * roundness + 0.4
    albedo = _coloured(ply, colour).astype(np.float32)
    yarn = replace(scene, albedo=albedo, height=lying, gloss=np.full(shape, 0.04, np.float32))
    return mix(scene, yarn, np.minimum(cover * 1.1, 1))


def chipped_edge(scene, rng, centre, size, strength=1.0) -> Scene:
    """Material broken off at the outline, on which `centre` lies; a rough, lighter fracture remains."""
    shape = scene.height.shape
    q = _blob(rng, shape, centre, size, 0.2)
    facets = fractal(rng, shape, max(size / 3, 3), 3)
    bite = size / 2 * (1 - q)
    broken = step(bite / 1.2 + 0.5).astype(np.float32)
    depth = strength * (0.12 * size + 1.0)
    floor = scene.height - depth * np.clip(bite / (0.35 * size), 0.15, 1) + 0.1 * depth * facets
    tone = rng.uniform(0.25, 0.7) * strength * (0.8 + 0.35 * facets + 0.2 * noise(rng, shape, 1.0))
    fracture = replace(scene, albedo=_tinted(scene, tone), height=floor, gloss=scene.gloss * 0.5)
    out = mix(scene, fracture, broken)
    gone = step((bite - size * rng.uniform(0.22, 0.34)) / 1.2 + 0.5 + 0.5 * facets).astype(np.float32)
    return mix(out, _missing(scene, depth), gone)


def abrasion(scene, rng, centre, size, strength=1.0) -> Scene:
    """A scuffed patch: many fine parallel marks, duller and lighter than what surrounds it."""
    shape, angle = scene.height.shape, rng.uniform(0, pi)
    q = _blob(rng, shape, centre, size, 0.15, angle)
    marks = noise(rng, shape, rng.uniform(1.0, 1.6), rng.uniform(8, 30), angle)
    scuffed = step((1.1 - q) / 0.6 + 0.25 * marks)
    tone = strength * scuffed * (rng.uniform(-0.2, 0.5) + rng.uniform(0.15, 0.4) * marks)
    height = scene.height - 0.35 * strength * scuffed * np.maximum(marks, 0)
    gloss = np.clip(scene.gloss * (1 - scuffed * strength * rng.uniform(0.1, 0.5)), 0, 1)
    return replace(scene, albedo=_tinted(scene, tone), height=height, gloss=gloss)


def discoloration(scene, rng, centre, size, strength=1.0) -> Scene:
    """A patch whose colour has drifted, by heat, fading or bleach; the relief stays."""
    q = _blob(rng, scene.height.shape, centre, size, rng.uniform(0.1, 0.25))
    film = step((1 - q) / rng.uniform(0.3, 0.8) + 0.4)
    shift = rng.uniform(0.25, 0.6) * rng.choice([-1, 1]) * (1 + rng.uniform(-0.7, 0.5, 3) * (rng.random() < 0.7))
    return replace(scene, albedo=_tinted(scene, strength * film * (1 if shift.mean() > 0 else 0.8), shift))


DEFECTS: dict[str, Callable[..., Scene]] = {
    "scratch": scratch,
    "dent": dent,
    "stain": stain,
    "crack": crack,
    "hole": hole,
    "thread": thread,
    "chipped_edge": chipped_edge,
    "abrasion": abrasion,
    "discoloration": discoloration,
}


# ----------------------------------------------------------------------------------------------------
# Light and camera


def _shadow(height: np.ndarray, light: Light) -> np.ndarray:
    """Lamp light that relief lets through, (H, W) float32 0..1, by looking lampwards in a few strides."""
    rise, dx, dy = tan(light.elevation), cos(light.azimuth), sin(light.azimuth)
    blocked = np.zeros_like(height)
    relief = np.ptp(height)
    for reach in (1.0, 2.0, 3.5, 6.0, 10.0, 16.0):
        if reach * rise > relief:  # nothing is tall enough to reach this far
            break
        move = np.array([[1, 0, reach * dx], [0, 1, reach * dy]])
        ahead = cv2.warpAffine(height, move, height.shape[::-1], flags=1 | cv2.WARP_INVERSE_MAP, borderMode=1)
        ahead -= height
        ahead -= reach * rise
        ahead *= 1 / (0.4 + 0.2 * reach)
        np.maximum(blocked, ahead, out=blocked)
    return 1 - np.minimum(blocked, 1)


def radiance(scene: Scene, light: Light) -> np.ndarray:
    """Light that the scene sends to a camera above it, (H, W, 3) float32, linear, about 0..1."""
    shape = scene.height.shape
    gx = cv2.Sobel(scene.height, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
    gy = cv2.Sobel(scene.height, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
    steep = 1 / np.sqrt(1 + gx * gx + gy * gy)
    # The lamp is near: its direction and strength drift across the picture.
    far = light.distance * max(shape)
    x, y = plane(shape, (shape[1] / 2, shape[0] / 2))
    lx, ly = (
        far * cos(light.elevation) * cos(light.azimuth) - x,
        far * cos(light.elevation) * sin(light.azimuth) - y,
    )
    lz = far * sin(light.elevation)
    near = 1 / np.sqrt(lx * lx + ly * ly + lz * lz)
    lx, ly, lz = lx * near, ly * near, lz * near
    facing = np.maximum((lz - gx * lx - gy * ly) * steep, 0)
    lamp = _shadow(scene.height, light) * (far * near) ** 2
    # Half-way vector between lamp and camera.
    scale = 1 / np.sqrt(2 + 2 * lz)
    hx, hy, hz = lx * scale, ly * scale, (lz + 1) * scale
    mirror = np.clip((hz - gx * hx - gy * hy) * steep, 0, 1)
    lobe = 1 - mirror
    if scene.anisotropic:  # brushed: each stroke reflects like a thin cylinder along the grain
        c, s = cos(scene.grain), sin(scene.grain)
        climb = gx * c + gy * s
        along = (hx * c + hy * s + hz * climb) / np.sqrt(1 + climb * climb)
        lobe = 1 - np.sqrt(np.maximum(1 - along * along, 0)) + 0.12 * lobe
    specular = 0.7 * np.exp(-scene.shininess * lobe) + 0.3 * np.exp(-0.15 * scene.shininess * lobe)
    hollow = np.maximum(cv2.GaussianBlur(scene.height, (0, 0), 3.0) - scene.height, 0)
    dome = light.ambient / (1 + 0.35 * hollow)
    shine = scene.gloss * specular * lamp
    matte = facing * lamp * (1 - light.ambient) + dome
    channels = cv2.split(scene.albedo)
    if scene.metal:  # metal reflects in its own colour, the dome included
        shine += 0.6 * scene.gloss * dome * steep**3
        shine /= np.maximum(np.maximum(channels[0], channels[1]), channels[2]) + 1e-3
        return cv2.merge([tone * c * (matte + shine) for c, tone in zip(channels, light.colour, strict=True)])
    return cv2.merge([tone * (c * matte + shine) for c, tone in zip(channels, light.colour, strict=True)])


def develop(light_in: np.ndarray, camera: Camera) -> np.ndarray:
    """What a noise-free camera makes of radiance (H, W, 3): values (H, W, 3) float32 in [0, 1]."""
    shape = light_in.shape[:2]
    x, y = plane(shape, (shape[1] / 2, shape[0] / 2))
    corner = camera.exposure * (1 - camera.vignetting * 4 * (x * x + y * y) / (shape[0] ** 2 + shape[1] ** 2))
    seen = cv2.GaussianBlur(light_in * _rgb(corner), (0, 0), camera.blur)
    if camera.mono:
        seen = np.repeat((seen @ np.array([0.3, 0.59, 0.11], np.float32))[..., None], 3, 2)
    # A film-like shoulder keeps highlights from burning out; the root is display gamma.
    return np.sqrt(1 - np.exp(-np.maximum(seen, 0)))


def shade(scene: Scene, light: Light, camera: Camera) -> np.ndarray:
    """The scene as a noise-free picture, (H, W, 3) float32 in [0, 1]."""
    return develop(radiance(scene, light), camera)


def expose(values: np.ndarray, camera: Camera, grain: np.ndarray) -> np.ndarray:
    """Sensor noise from the field `grain` (H, W, 3), deviation 1, on noise-free values; (H, W, 3) uint8."""
    deviation = np.sqrt(camera.read**2 + camera.shot**2 * values)
    return np.clip(np.round(255 * values + deviation * grain), 0, 255).astype(np.uint8)


def sensor_grain(rng: Generator, shape: tuple[int, int], mono: bool = False) -> np.ndarray:
    """Noise field (H, W, 3) float32, deviation about 1; colour sensors spread it a little."""
    if mono:
        return np.repeat(rng.standard_normal((*shape, 1), dtype=np.float32), 3, 2)
    return 1.35 * cv2.GaussianBlur(rng.standard_normal((*shape, 3), dtype=np.float32), (3, 3), 0.45)


def exposure_for(light_in: np.ndarray, foreground: np.ndarray, level: float) -> float:
    """Exposure at which the object's mean picture value is about `level` (0..1), given radiance (H, W, 3)."""
    mean = float(cv2.mean(light_in, foreground.astype(np.uint8))[1])
    return -float(np.log(1 - level**2)) / max(mean, 1e-3)


# ----------------------------------------------------------------------------------------------------
# Pairs


def _largest(change: np.ndarray) -> np.ndarray:
    """Largest absolute value over the channels of (H, W, 3); numpy is slow at reducing a short axis."""
    red, green, blue = cv2.split(np.abs(change))
    return np.maximum(np.maximum(red, green), blue)


def visible_mask(change: np.ndarray) -> np.ndarray:
    """Where a noise-free change (H, W, 3) is visible, (H, W) bool, without tiny islands and pinholes."""
    mask = (_largest(change) >= VISIBLE).astype(np.uint8)
    for value in (1, 0):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] < MIN_ISLAND
        small[0] = False
        if count > 1 and small.any():
            mask[small[labels]] = 1 - value
    return mask.astype(bool)


def render_pair(
    scene: Scene,
    light: Light,
    camera: Camera,
    rng: Generator,
    defect_type: str,
    centre: tuple[float, float],
    size: float,
    strength: float = 1.0,
    surface: str = "",
    level: float | None = None,
    **style: object,
) -> Pair | None:
    """The scene with and without a defect at `centre` (x, y), `size` px long; None when it stays invisible.

    Outside the mask the noise-free pictures differ by less than `VISIBLE`; further than `HALO` px from it
    the two pictures are equal bit for bit. On an object, nothing changes beyond 2 px around it. `level`: the
    normal picture's mean value on the object (0..1), which replaces the camera's exposure. `style` goes to
    the defect function.
    """
    light_in = radiance(scene, light)
    if level is not None:
        camera = replace(camera, exposure=exposure_for(light_in, scene.foreground, level))
    normal = develop(light_in, camera)
    grain = sensor_grain(rng, normal.shape[:2], camera.mono)
    # The lens smears the object's outline over two pixels; further out nothing may change.
    on_object = None if scene.foreground.all() else cv2.dilate(scene.foreground.astype(np.uint8), np.ones((5, 5)))
    seed = int(rng.integers(2**63))
    for attempt in range(5):
        draw = np.random.default_rng([seed, attempt])
        damaged = DEFECTS[defect_type](scene, draw, centre, size, strength * 1.6**attempt, **style)
        change = shade(damaged, light, camera) - normal
        if on_object is not None:
            change *= _rgb(on_object)
        mask = visible_mask(change)
        visible = _largest(change)
        if mask.sum() < 2 * MIN_ISLAND or visible[mask].mean() < MIN_CONTRAST:
            continue
        change[(visible >= VISIBLE) & ~mask] = 0
        fade = cv2.blur(cv2.dilate(255 * mask.astype(np.uint8), np.ones((5, 5))), (5, 5)).astype(np.float32) / 255
        defect = expose(normal + change * _rgb(fade), camera, grain)
        return Pair(expose(normal, camera, grain), defect, mask, scene.foreground, surface, defect_type)
    return None


# ----------------------------------------------------------------------------------------------------
# The base model's set. The ranges below leave out what the workpieces use: brushing within 10 degrees of the
# horizontal, blue-green cloth and yarn pitches of 9 to 12 px, nuts with bores of 0.53 to 0.63.

_FLAT = ("scratch", "dent", "stain", "crack", "hole", "abrasion", "discoloration")
_PART = ("chipped_edge", "chipped_edge", "scratch", "crack", "stain", "dent", "abrasion", "discoloration")
SURFACES: dict[str, tuple[str, ...]] = {
    "brushed metal": _FLAT,
    "woven fabric": ("hole", "hole", "thread", "thread", "stain", "discoloration"),
    "cast metal": _FLAT,
    "stone": ("crack", "hole", "stain", "scratch", "discoloration"),
    "painted metal": (*_FLAT, "thread"),
    "plastic": ("scratch", "dent", "stain", "crack", "thread", "abrasion", "discoloration"),
    "leather": ("scratch", "hole", "stain", "crack", "thread", "abrasion", "discoloration"),
    "wood": ("scratch", "dent", "stain", "crack", "hole", "discoloration"),
    "metal nut": _PART,
    "washer": _PART,
    "metal part": _PART,
}


def _colour(rng: Generator, low: float, high: float, chroma: float, banned: tuple[float, float] = (2.0, 2.0)):
    """Linear RGB (3,) of value low..high, half the time nearly grey; without the hues within `banned`."""
    value = np.exp(rng.uniform(np.log(low), np.log(high)))
    if rng.random() < 0.5:
        return np.clip(value * (1 + rng.normal(0, 0.03, 3)), 0.01, 0.95)
    hue = rng.uniform(0, 1)
    while banned[0] <= hue <= banned[1]:
        hue = rng.uniform(0, 1)
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 - chroma * rng.uniform(0.2, 1) * (1 - wheel))


def _random_scene(rng: Generator, surface: str, shape: tuple[int, int]) -> Scene:
    """A flat surface of the named family with parameters from the base model's ranges."""
    uniform, k = rng.uniform, min(shape) / 128
    if surface == "brushed metal":
        angle, gloss, shininess = uniform(0.18, pi - 0.18), uniform(0.25, 0.75), uniform(10, 60)
        colour = _colour(rng, 0.12, 0.5, 0.4)
        width, length = uniform(0.9, 2.0), k * uniform(20, 160)
        return brushed(rng, shape, colour, angle, width, length, uniform(0.08, 0.4), gloss, shininess)
    if surface == "woven fabric":
        pitch = k * (uniform(4, 9) if rng.random() < 0.5 else uniform(12, 20))
        warp = _colour(rng, 0.05, 0.7, 0.9, (0.42, 0.6))
        weft = warp if rng.random() < 0.6 else _colour(rng, 0.05, 0.7, 0.9, (0.42, 0.6))
        angle, over, fill = uniform(-0.8, 0.8), rng.integers(1, 4), uniform(0.72, 1.0)
        relief, variation, fuzz = uniform(0.15, 0.4), uniform(0.03, 0.2), uniform(0.02, 0.12)
        return woven(rng, shape, warp, weft, angle, pitch, over, fill, relief, variation, fuzz)
    if surface in ("cast metal", "stone"):
        metal = surface == "cast metal"
        colour = _colour(rng, 0.08, 0.45 if metal else 0.75, 0.3 if metal else 0.5)
        look = uniform(0.15, 0.9), uniform(0.04, 0.3), uniform(0, 1), uniform(0.05, 0.35) if metal else 0.03
        return cast(rng, shape, colour, k * uniform(4, 24), *look, metal)
    if surface in ("painted metal", "plastic"):
        colour = _colour(rng, 0.03, 0.85, 0.95)
        flakes = uniform(0.02, 0.12) if surface == "painted metal" and rng.random() < 0.4 else 0.0
        return painted(
            rng,
            shape,
            colour,
            uniform(0.0, 0.14),
            uniform(3, 10),
            flakes,
            uniform(0.1, 0.6),
            uniform(15, 150),
        )
    if surface == "leather":
        look = k * uniform(4, 16), uniform(0.4, 1.2), uniform(0.05, 0.35)
        return leather(rng, shape, _colour(rng, 0.03, 0.5, 0.8), *look)
    if surface == "wood":
        base = np.exp(uniform(np.log(0.08), np.log(0.6)))
        colour = base * np.array([1.0, uniform(0.55, 0.9), uniform(0.25, 0.8)])
        look = k * uniform(6, 30), uniform(0.15, 0.6), uniform(0.02, 0.25)
        return wood(rng, shape, colour, uniform(0, pi), *look)
    raise ValueError(f"unknown surface {surface!r}, expected one of {sorted(SURFACES)}")


def _random_part(rng: Generator, surface: str, shape: tuple[int, int], target: tuple[float, float], at_edge: bool):
    """A metal part on a backdrop, its face (or, if `at_edge`, its outline) at `target` (x, y)."""
    uniform, k = rng.uniform, min(shape) / 128
    ground = rng.choice(["cast metal", "painted metal", "plastic", "stone"])
    backdrop = _random_scene(rng, ground, shape)
    backdrop = replace(backdrop, albedo=backdrop.albedo * np.float32(uniform(0.15, 1.0)), metal=False)
    radius, angle, polar = k * uniform(38, 120), uniform(0, 2 * pi), uniform(0, 2 * pi)
    low, high = (0.35, 0.53) if rng.random() < 0.5 else (0.63, 0.72)
    sides = {"metal nut": 6, "washer": 0, "metal part": int(rng.choice([0, 3, 4, 4, 5, 8]))}[surface]
    bore = 0.0 if surface == "metal part" and rng.random() < 0.6 else uniform(low, high)
    if sides:
        sector = 2 * pi / sides
        reach = radius / cos((polar + sector / 2) % sector - sector / 2)
    else:
        reach = radius
    along = reach if at_edge else bore * radius + uniform(0.3, 0.8) * (reach - bore * radius)
    centre = (target[0] - along * cos(polar + angle), target[1] - along * sin(polar + angle))
    nut = surface == "metal nut"
    return part(
        rng, backdrop, _colour(rng, 0.12, 0.5, 0.5), centre, radius, angle, sides, bore,
        thread=uniform(0.1, 0.22) if nut else 0.0, thickness=k * uniform(4, 8) * (2 if nut else 1),
        bevel=k * uniform(0.8, 4), chamfer=uniform(0.3, 0.8) if nut else 0.0, finish=uniform(0.05, 0.3),
        turned=uniform(0, 1), gloss=uniform(0.2, 0.7), shininess=uniform(10, 50),
    )  # fmt: skip


def random_pair(rng: Generator, size: int = 128) -> Pair:
    """A random surface (size, size) with a random defect of 15..70 % of the side, near the centre."""
    shape = (size, size)
    for _ in range(20):
        surface = str(rng.choice(list(SURFACES)))
        defect_type = str(rng.choice(SURFACES[surface]))
        target = tuple(size * rng.normal(0.5, 0.06, 2).clip(0.35, 0.65))
        extent = size * rng.uniform(0.15, 0.7)
        if SURFACES[surface] is _PART:
            scene = _random_part(rng, surface, shape, target, defect_type == "chipped_edge")
        else:
            scene = _random_scene(rng, surface, shape)
        warmth = rng.normal(0, 0.05)
        elevation, distance = rng.uniform(0.45, 1.2), rng.uniform(1.2, 5)
        light = Light(
            rng.uniform(0, 2 * pi), elevation, rng.uniform(0.15, 0.6), distance, (1 + warmth, 1.0, 1 - warmth)
        )
        camera = Camera(
            vignetting=rng.uniform(0, 0.3), blur=rng.uniform(0.45, 1.1), read=rng.uniform(0.3, 1.5),
            shot=rng.uniform(0.5, 3.0), mono=rng.random() < 0.2,
        )  # fmt: skip
        strength, level = rng.uniform(0.75, 1.4), rng.uniform(0.3, 0.72)
        pair = render_pair(scene, light, camera, rng, defect_type, target, extent, strength, surface, level)
        if pair is not None:
            return pair
    raise RuntimeError("20 scenes in a row had no visible defect; the parameter ranges must be wrong")
