"""`ssfer doctor`: which data sets these are, whether they are complete and readable, and which images occur twice.

Works before any training and without params.yaml: `data_sets` recognizes what lies at a path, `scan` reads every image
once, `overlap` counts copies, `findings` judges, `json_report` and `text_report` print.
"""
