"""The arm of `robot`, for every library alike."""

# Link twists in units of pi/2, link lengths and offsets in metres, of an arm with six joints.
ARM = (
    (1, 0.0, 0.4),
    (0, 0.43, 0.0),
    (1, 0.02, 0.15),
    (-1, 0.0, 0.43),
    (1, 0.0, 0.0),
    (0, 0.0, 0.1),
)
