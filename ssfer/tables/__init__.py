"""The paper's tables: settings of each row, running them with DVC, and our results compared with the printed ones."""
