"""The report page, the model card and their pictures, made from metrics/."""
