"""Train two tasks on the built-in sample, and use the model: `python examples/train_and_predict.py`."""

import mtk

run = mtk.train(["sst", "sts"], sample="always", combiner="pcgrad", out="runs/example")
print("best dev scores:", run.scores["tasks"])

model = mtk.load(run)
for answer in model.predict("sst", ["A warm, funny film.", "Two hours of nothing."]):
    print(answer.label, round(answer.score, 2))
print(model.predict("sts", [("A dog runs.", "A dog is running.")])[0].value)
