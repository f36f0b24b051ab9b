-- Runs once, when the volume is new. MLflow's own database is made from POSTGRES_DB.
CREATE DATABASE optuna;
