"""The released files that each preparation needs, in words; apart, so that help is printed without any library."""

NEEDS = {
    "acdc": "rgb_anon_trainvaltest.zip and gt_trainval.zip, or both unpacked",
    "chase_db1": "CHASEDB1.zip, or unpacked",
    "cityscapes": "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, or both unpacked",
    "coco_stuff_10k": "cocostuff-10k-v1.1.zip, or unpacked",
    "coco_stuff_164k": "train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip, or unpacked",
    "dark_zurich": "Dark_Zurich_val_anon.zip, or unpacked",
    "drive": "training.zip and test.zip, or both unpacked; today's test.zip has no 1st_manual, so that scores need an older one",
    "hrf": "healthy, glaucoma and diabetic_retinopathy .zip, and the three of _manualsegm",
    "isaid": "folders train and val with DOTA's pictures and iSAID's *_instance_color_RGB.png, and test with pictures, if wanted",
    "loveda": "Train.zip, Val.zip and Test.zip, or unpacked",
    "night_driving": "NighttimeDrivingTest.zip, or unpacked",
    "pascal_context_59": "VOCtrainval_03-May-2010.tar, and trainval_merged.json as for the zoo or trainval.tar.gz (459 labels); or unpacked",
    "pascal_context_60": "VOCtrainval_03-May-2010.tar, and trainval_merged.json as for the zoo or trainval.tar.gz (459 labels); or unpacked",
    "pascal_voc_aug": "VOCtrainval_11-May-2012.tar and benchmark.tgz (SBD), or both unpacked",
    "potsdam": "2_Ortho_RGB.zip and 5_Labels_all_noBoundary.zip, or unpacked",
    "stare": "stare-images.tar and labels-ah.tar, or both unpacked",
    "vaihingen": "ISPRS_semantic_labeling_Vaihingen.zip and ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip, or unpacked",
}
"""By the name of the data set in `segzoo.data.DATASETS`."""
