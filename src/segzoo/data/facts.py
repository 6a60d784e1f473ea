"""Facts about data sets that segmentation models are trained on: classes, display colours, label rules, origin.

Class orders and colours are those of the released checkpoints of the mmsegmentation family, so that an id in a
converted checkpoint means what it meant to its authors. Licence words are a pointer only: the data set's own page
decides.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from segzoo.data.label_encodings import CAMVID_COLORS, CAMVID_SEGNET_IDS, CITYSCAPES_LABEL_IDS, Color, LabelEncoding
from segzoo.errors import SegZooError


@dataclass(frozen=True)
class DatasetFacts:
    """What a model, a loader or a model card needs to know about one data set.

    Attributes:
        name: Short identifier, the key in `DATASETS`.
        title: Name for people.
        classes: Class names in id order, after the label rule was applied.
        palette: One (red, green, blue) per class, each 0..255.
        reduce_labels: True when masks on disk hold 0 for "no class" and 1..N for the classes, so that training
            turns 0 into `ignore_index` and subtracts one from the rest.
        ignore_index: Label id that never counts.
        encodings: Other ways in which masks of the data set are written. Loading recognises them, decoding applies them.
        original_types: Names of the mmsegmentation dataset classes whose checkpoints use these classes.
        hub_names: Data sets on the Hub that hold it with masks as this label rule says.
        licence: Terms of the pictures, in a few words.
        url: Home page.
        note: Anything else that a user must know, or an empty string.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    reduce_labels: bool = False
    ignore_index: int = 255
    encodings: tuple[LabelEncoding, ...] = ()
    original_types: tuple[str, ...] = ()
    hub_names: tuple[str, ...] = ()
    licence: str = "see the data set's page"
    url: str = ""
    note: str = ""

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def id2label(self) -> dict[int, str]:
        """Class id -> class name."""
        return dict(enumerate(self.classes))

    @property
    def label2id(self) -> dict[str, int]:
        """Class name -> class id."""
        return {name: index for index, name in enumerate(self.classes)}


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(";"))


def _colors(text: str) -> tuple[Color, ...]:
    return tuple((int(h[:2], 16), int(h[2:4], 16), int(h[4:], 16)) for h in text.split())


def color_map(num_labels: int) -> tuple[Color, ...]:
    """Colours for any number of classes: the bit-interleaved colour map of the Pascal VOC development kit.

    Args:
        num_labels: How many colours, at most 256 distinct ones exist; class 0 is black.
    """
    colors = []
    for index in range(num_labels):
        red = green = blue = 0
        for bit in range(8):
            red |= (index >> (3 * bit) & 1) << (7 - bit)
            green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
        colors.append((red, green, blue))
    return tuple(colors)


_ADE20K_CLASSES = _names(
    """
    wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; earth;
    door; table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; mirror; rug; field;
    armchair; seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column; signboard;
    chest of drawers; counter; sand; sink; skyscraper; fireplace; refrigerator; grandstand; path; stairs; runway;
    case; pool table; pillow; screen door; stairway; river; bridge; bookcase; blind; coffee table; toilet; flower;
    book; hill; bench; countertop; stove; palm; kitchen island; computer; swivel chair; boat; bar; arcade machine;
    hovel; bus; towel; light; truck; tower; chandelier; awning; streetlight; booth; television receiver; airplane;
    dirt track; apparel; pole; land; bannister; escalator; ottoman; bottle; buffet; poster; stage; van; ship;
    fountain; conveyer belt; canopy; washer; plaything; swimming pool; stool; barrel; basket; waterfall; tent; bag;
    minibike; cradle; oven; ball; food; step; tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher;
    screen; blanket; sculpture; hood; sconce; vase; traffic light; tray; ashcan; fan; pier; crt screen; plate;
    monitor; bulletin board; shower; radiator; glass; clock; flag
    """
)

_ADE20K_COLORS = _colors(
    """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652
    8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0
    ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff
    8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff
    00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
    ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff
    00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070
    5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500
    0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff
    b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """
)

_CITYSCAPES_CLASSES = _names(
    """
    road; sidewalk; building; wall; fence; pole; traffic light; traffic sign; vegetation; terrain; sky; person;
    rider; car; truck; bus; train; motorcycle; bicycle
    """
)

_CITYSCAPES_COLORS = _colors(
    """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e 000046 003c64
    005064 0000e6 770b20
    """
)

_VOC_CLASSES = _names(
    """
    background; aeroplane; bicycle; bird; boat; bottle; bus; car; cat; chair; cow; diningtable; dog; horse;
    motorbike; person; pottedplant; sheep; sofa; train; tvmonitor
    """
)

_CONTEXT_CLASSES = _names(
    """
    background; aeroplane; bag; bed; bedclothes; bench; bicycle; bird; boat; book; bottle; building; bus; cabinet;
    car; cat; ceiling; chair; cloth; computer; cow; cup; curtain; dog; door; fence; floor; flower; food; grass;
    ground; horse; keyboard; light; motorbike; mountain; mouse; person; plate; platform; pottedplant; road; rock;
    sheep; shelves; sidewalk; sign; sky; snow; sofa; table; track; train; tree; truck; tvmonitor; wall; water;
    window; wood
    """
)

_COCO_STUFF_CLASSES = _names(
    """
    person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign;
    parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella;
    handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove; skateboard;
    surfboard; tennis racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple; sandwich; orange;
    broccoli; carrot; hot dog; pizza; donut; cake; chair; couch; potted plant; bed; dining table; toilet; tv;
    laptop; mouse; remote; keyboard; cell phone; microwave; oven; toaster; sink; refrigerator; book; clock; vase;
    scissors; teddy bear; hair drier; toothbrush; banner; blanket; branch; bridge; building-other; bush; cabinet;
    cage; cardboard; carpet; ceiling-other; ceiling-tile; cloth; clothes; clouds; counter; cupboard; curtain;
    desk-stuff; dirt; door-stuff; fence; floor-marble; floor-other; floor-stone; floor-tile; floor-wood; flower;
    fog; food-other; fruit; furniture-other; grass; gravel; ground-other; hill; house; leaves; light; mat; metal;
    mirror-stuff; moss; mountain; mud; napkin; net; paper; pavement; pillow; plant-other; plastic; platform;
    playingfield; railing; railroad; river; road; rock; roof; rug; salad; sand; sea; shelf; sky-other; skyscraper;
    snow; solid-other; stairs; stone; straw; structural-other; table; tent; textile-other; towel; tree; vegetable;
    wall-brick; wall-concrete; wall-other; wall-panel; wall-stone; wall-tile; wall-wood; water-other; waterdrops;
    window-blind; window-other; wood
    """
)

_COCO_STUFF_COLORS = _colors(
    """
    00c040 00c040 004060 80c0c0 004040 00c0e0 00c0c0 80c040 00c060 80c040 8020c0 0000e0 000040 00a0c0 800060 8000c0
    0020c0 8080e0 0000c0 80a0c0 808000 800020 802000 800080 408020 00a000 000000 c080a0 002000 008080 4080a0 80a000
    008000 c08020 806080 000080 400020 00e080 800000 c000a0 006080 808080 4000a0 80e080 808040 c00020 806000 8000c0
    008020 40e000 000040 8080a0 406000 0080c0 0080a0 c0e000 008040 808020 c02080 0040c0 000020 40a080 804040 8000a0
    402080 80c0c0 0000a0 c0a080 80c000 800060 c02000 804080 408060 40a000 004000 c080e0 402000 00c080 4080e0 c0a000
    00c000 c08060 c06080 004080 400060 40e080 804000 c000e0 406080 80c080 4000e0 c0e080 80c040 c00060 c06000 8040c0
    008060 00e000 404040 8080e0 006000 40c0c0 0080e0 80e000 40c040 808060 802080 4000c0 004060 00a080 c00040 8040e0
    002080 c080c0 0040e0 80a080 c08000 804020 802040 c00080 40c020 00a040 400000 c0c0a0 002040 408080 40c0a0 80a040
    408000 c0c020 8060c0 400080 404020 00e0c0 c00000 c040a0 0060c0 c08080 4040a0 80e0c0 c08040 c04020 806040 c000c0
    00c020 40e040 400040 80c0a0 406040 4080c0 00c0a0 c0e040 408040 80c020 c020c0 4040c0 004020 40a0c0 c04040 8040a0
    4020c0 c0c0c0 0040a0 c0a0c0 c0c000 804060 c02040 c04080 40c060 40a040 404000
    """
)

_LOVEDA_CLASSES = _names(
    """
    background; building; road; water; barren; forest; agricultural
    """
)

_LOVEDA_COLORS = _colors(
    """
    ffffff ff0000 ffff00 0000ff 9f81b7 00ff00 ffc380
    """
)

_ISPRS_CLASSES = _names(
    """
    impervious_surface; building; low_vegetation; tree; car; clutter
    """
)

_ISPRS_COLORS = _colors(
    """
    ffffff 0000ff 00ffff 00ff00 ffff00 ff0000
    """
)

_ISAID_CLASSES = _names(
    """
    background; ship; store_tank; baseball_diamond; tennis_court; basketball_court; Ground_Track_Field; Bridge;
    Large_Vehicle; Small_Vehicle; Helicopter; Swimming_pool; Roundabout; Soccer_ball_field; plane; Harbor
    """
)

_ISAID_COLORS = _colors(
    """
    000000 00003f 003f3f 003f00 003f7f 003fbf 003fff 007f3f 007f7f 00007f 0000bf 0000ff 00bf7f 007fbf 007fff 00649b
    """
)

_VESSEL_COLORS = _colors("787878 06e6e6")
_CAMVID_CLASSES = _names("sky; building; pole; road; pavement; tree; sign symbol; fence; car; pedestrian; bicyclist")
_CAMVID_COLORS = _colors("808080 800000 c0c080 804080 0000c0 808000 c08080 404080 400080 404000 0080c0")
_SCENES_CLASSES = _names("sky; building; road; pavement; tree; grass; car; person; pole")
_SCENES_COLORS = _colors("87b5e6 8c5a46 606068 b48cbe 2d7d32 9ccc50 1428a0 dc143c f0c83c")

_RESEARCH = "non-commercial research"


def _vessels(name: str, title: str, original_type: str, licence: str, url: str) -> DatasetFacts:
    return DatasetFacts(
        name,
        title,
        ("background", "vessel"),
        _VESSEL_COLORS,
        original_types=(original_type,),
        licence=licence,
        url=url,
    )


_TABLE = (
    DatasetFacts(
        "ade20k",
        "ADE20K scene parsing (150 classes)",
        _ADE20K_CLASSES,
        _ADE20K_COLORS,
        reduce_labels=True,
        original_types=("ADE20KDataset",),
        hub_names=("merve/scene_parse_150", "zhoubolei/scene_parse_150", "scene_parse_150"),
        licence="pictures: non-commercial research and education; annotations: BSD-3-Clause",
        url="https://sceneparsing.csail.mit.edu",
        note="masks hold 0 for everything outside the 150 classes",
    ),
    DatasetFacts(
        "cityscapes",
        "Cityscapes (19 classes)",
        _CITYSCAPES_CLASSES,
        _CITYSCAPES_COLORS,
        encodings=(CITYSCAPES_LABEL_IDS,),
        original_types=("CityscapesDataset",),
        licence=_RESEARCH,
        url="https://www.cityscapes-dataset.com",
        note="*_labelTrainIds.png holds these ids; *_labelIds.png holds others, which are mapped; blank test masks",
    ),
    DatasetFacts(
        "pascal_voc",
        "Pascal VOC 2012 (21 classes)",
        _VOC_CLASSES,
        color_map(21),
        original_types=("PascalVOCDataset",),
        licence="Flickr terms of use",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        note="masks are palette PNGs whose indices are the ids, 255 at the borders of objects",
    ),
    DatasetFacts(
        "pascal_context_60",
        "Pascal Context (59 classes and background)",
        _CONTEXT_CLASSES,
        _ADE20K_COLORS[:60],
        original_types=("PascalContextDataset",),
        licence="Flickr terms of use",
        url="https://cs.stanford.edu/~roozbeh/pascal-context/",
    ),
    DatasetFacts(
        "pascal_context_59",
        "Pascal Context (59 classes)",
        _CONTEXT_CLASSES[1:],
        _ADE20K_COLORS[1:60],
        reduce_labels=True,
        original_types=("PascalContextDataset59",),
        licence="Flickr terms of use",
        url="https://cs.stanford.edu/~roozbeh/pascal-context/",
    ),
    DatasetFacts(
        "coco_stuff_10k",
        "COCO-Stuff 10k (171 classes)",
        _COCO_STUFF_CLASSES,
        _COCO_STUFF_COLORS,
        reduce_labels=True,
        original_types=("COCOStuffDataset",),
        licence="annotations: CC BY 4.0; pictures: Flickr terms of use",
        url="https://github.com/nightrome/cocostuff10k",
    ),
    DatasetFacts(
        "coco_stuff_164k",
        "COCO-Stuff 164k (171 classes)",
        _COCO_STUFF_CLASSES,
        _COCO_STUFF_COLORS,
        original_types=("COCOStuffDataset",),
        licence="annotations: CC BY 4.0; pictures: Flickr terms of use",
        url="https://github.com/nightrome/cocostuff",
    ),
    DatasetFacts(
        "camvid",
        "CamVid (11 classes)",
        _CAMVID_CLASSES,
        _CAMVID_COLORS,
        encodings=(CAMVID_SEGNET_IDS, CAMVID_COLORS),
        licence="CC BY-NC",
        url="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    ),
    DatasetFacts(
        "loveda",
        "LoveDA (7 classes)",
        _LOVEDA_CLASSES,
        _LOVEDA_COLORS,
        reduce_labels=True,
        original_types=("LoveDADataset",),
        licence="CC BY-NC-SA 4.0",
        url="https://github.com/Junjue-Wang/LoveDA",
    ),
    DatasetFacts(
        "potsdam",
        "ISPRS Potsdam (6 classes)",
        _ISPRS_CLASSES,
        _ISPRS_COLORS,
        reduce_labels=True,
        original_types=("PotsdamDataset",),
        url="https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx",
    ),
    DatasetFacts(
        "vaihingen",
        "ISPRS Vaihingen (6 classes)",
        _ISPRS_CLASSES,
        _ISPRS_COLORS,
        reduce_labels=True,
        original_types=("ISPRSDataset",),
        url="https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx",
    ),
    DatasetFacts(
        "isaid",
        "iSAID (15 classes and background)",
        _ISAID_CLASSES,
        _ISAID_COLORS,
        original_types=("iSAIDDataset",),
        licence=_RESEARCH,
        url="https://captain-whu.github.io/iSAID/",
    ),
    _vessels(
        "drive",
        "DRIVE retinal vessels",
        "DRIVEDataset",
        "see the data set's page",
        "https://drive.grand-challenge.org",
    ),
    _vessels(
        "stare",
        "STARE retinal vessels",
        "STAREDataset",
        "see the data set's page",
        "https://cecas.clemson.edu/~ahoover/stare/",
    ),
    _vessels(
        "chase_db1",
        "CHASE_DB1 retinal vessels",
        "ChaseDB1Dataset",
        "see the data set's page",
        "https://blogs.kingston.ac.uk/retinal/chasedb1/",
    ),
    _vessels(
        "hrf",
        "HRF retinal vessels",
        "HRFDataset",
        "see the data set's page",
        "https://www5.cs.fau.de/research/data/fundus-images/",
    ),
    DatasetFacts(
        "dark_zurich",
        "Dark Zurich (19 Cityscapes classes, night)",
        _CITYSCAPES_CLASSES,
        _CITYSCAPES_COLORS,
        original_types=("DarkZurichDataset",),
        licence=_RESEARCH,
        url="https://www.trace.ethz.ch/publications/2019/GCMA_UIoU/",
    ),
    DatasetFacts(
        "night_driving",
        "Nighttime Driving (19 Cityscapes classes)",
        _CITYSCAPES_CLASSES,
        _CITYSCAPES_COLORS,
        original_types=("NightDrivingDataset",),
        url="https://people.ee.ethz.ch/~daid/NightDriving/",
    ),
    DatasetFacts(
        "scenes",
        "segzoo synthetic street scenes (9 classes)",
        _SCENES_CLASSES,
        _SCENES_COLORS,
        licence="Apache-2.0",
        note="drawn by segzoo.data.scenes; synthetic, for trying things out only",
    ),
)

DATASETS: dict[str, DatasetFacts] = {facts.name: facts for facts in _TABLE}


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def dataset_facts(name: str) -> DatasetFacts:
    """The facts of a data set by its name; case, spaces, dashes and underscores do not matter.

    Raises:
        SegZooError: No such data set; the message lists the nearest names.
    """
    by_plain = {_plain(key): facts for key, facts in DATASETS.items()}
    found = by_plain.get(_plain(name))
    if found is None:
        near = difflib.get_close_matches(_plain(name), by_plain, n=3, cutoff=0.4) or sorted(by_plain)
        near = ", ".join(by_plain[key].name for key in near)
        raise SegZooError(f"No facts about a data set called {name!r}. Nearest: {near}.")
    return found


def facts_for_original_type(
    original_type: str, *, reduce_labels: bool | None = None, num_labels: int | None = None
) -> DatasetFacts | None:
    """The data set that a dataset class of mmsegmentation stands for; None when it is not known or does not fit.

    Args:
        original_type: Name of the class, such as "ADE20KDataset".
        reduce_labels: The config's `reduce_zero_label`, which tells COCO-Stuff 10k from 164k; None: not known, and
            then the first data set whose class count fits is returned.
        num_labels: The model's number of classes; facts with another number do not fit. None: not checked.
    """
    fitting = [f for f in _TABLE if original_type in f.original_types and num_labels in (None, f.num_labels)]
    exact = [f for f in fitting if reduce_labels in (None, f.reduce_labels)]
    return (exact or fitting or [None])[0]
