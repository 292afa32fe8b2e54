"""`ssfer doctor`: which data sets these are, whether they are complete and readable, and which images occur twice.

Works before any training and before params.yaml knows the data: `identify` says what a path is, `scan` reads every
image once, `copies` finds the same picture in several places, `findings` judges, `page` shows.
"""
