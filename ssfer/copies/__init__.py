"""Pictures that are copies of each other: hashes, an index of them, registration of look-alikes."""
