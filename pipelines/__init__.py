"""Which steps, in which order, where. Table PIPELINES: name -> what the pipeline does.

The pipeline of a name is the function of that name in the module of that name. It is imported only
when it is compiled, since kfp takes a second or two to load.
"""

PIPELINES: dict[str, str] = {
    "train_robust": "prepare, train in three stages, prune, attack every stage, compare, promote",
    "fine_tune": "prepare, train in two stages, attack both, compare, promote",
    "retrain": "unless nothing changed: prepare, train, attack, compare, promote",
    "evaluate_model": "prepare, fetch a model, attack it",
    "compare_trainings": "prepare, train and attack every arm with every seed, tabulate",
    "reproduce_anp_vs": "prepare, train and prune every mode of ANP-VS, measure, tabulate",
}
