"""Pictures of classes that an MLLM sees beside the candidates' names: the bundle's component `exemplars`."""
