"""Write a trained classifier in other formats: ONNX, a timm folder, an MLflow model, a torch.export program."""
