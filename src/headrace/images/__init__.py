"""Encoded images -> pixels of a batch: decoded once, cropped and resized straight into their place.

In reading order:

    decode       an image's bytes -> its size, and its pixels
    random       (seed, position) -> uniform numbers: no state, so that a resumed run sees the same pixels
    transform    `ImageTransform`, and which part of an image goes where
    resize       a part of an image -> its place in a batch
    boxes        boxes, points and masks -> where their pixels went
    encode       pixels -> PNG, or a small picture
    instance_masks  polygons and run lengths of an object -> its mask
    coco_evaluator    boxes or masks that were found -> COCO's scores
    confusion_matrix  classes of pixels or images -> IoU, accuracy
"""

from headrace.images.boxes import (
    mirrored_keypoints,
    move_boxes,
    move_keypoints,
    move_mask,
    move_points,
    restore_boxes,
)
from headrace.images.coco_evaluator import CocoEvaluator
from headrace.images.confusion_matrix import ConfusionMatrix
from headrace.images.decode import ImageHeader, check_image, decode_mask, decode_rgb, decodes, read_header
from headrace.images.encode import encode_png, thumbnail
from headrace.images.instance_masks import (
    decode_instance_mask,
    encode_rle,
    mask_of_rle,
    place_instance_masks,
    rle_of_segmentation,
)
from headrace.images.random import PositionRandom
from headrace.images.transform import Geometry, ImageTransform, geometry_of, paste, render

__all__ = [
    "CocoEvaluator",
    "ConfusionMatrix",
    "Geometry",
    "ImageHeader",
    "ImageTransform",
    "PositionRandom",
    "check_image",
    "decode_instance_mask",
    "decode_mask",
    "decode_rgb",
    "decodes",
    "encode_png",
    "encode_rle",
    "geometry_of",
    "mask_of_rle",
    "mirrored_keypoints",
    "move_boxes",
    "move_keypoints",
    "move_mask",
    "move_points",
    "paste",
    "place_instance_masks",
    "read_header",
    "render",
    "restore_boxes",
    "rle_of_segmentation",
    "thumbnail",
]
