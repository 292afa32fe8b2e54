"""A trained classifier in the files of others: ONNX, a folder of timm's, a model of MLflow's, a program of torch's."""
