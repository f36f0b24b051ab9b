"""What a sweep is: a search space, trials on Ray, records in MLflow, and a promoted champion."""
