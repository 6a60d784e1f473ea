"""People's own annotations that are no masks of class ids yet: outlines (COCO, YOLO, LabelMe) and colours of a palette.

`recognition` tells what a folder holds, one module a format lists its pictures and draws their masks, and `masks`
writes a folder of pictures and masks. Outlines are drawn by the libraries `supervision` and, of COCO, `pycocotools`.
"""
