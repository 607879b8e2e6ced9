// Package optim keeps for a trainer what the engine, package pnm, does not: the state of its tensors, the counts of steps, the
// learning rates, and checkpoints of all these.
//
//	opt, err := optim.New(optim.Group{
//		Rule:   pnm.NewPNM(0.5),
//		Params: pnm.Vectors(weights, bias), // slices of float32
//		Names:  []string{"weights", "bias"},
//	})
//	if err != nil { … }
//	defer opt.Close()
//	for range steps {
//		… // computes the gradients
//		_, err := opt.Step(pnm.Options{}, pnm.Vectors(gradWeights, gradBias))
//		if err != nil { … }
//	}
//	err = opt.Save("run.safetensors", optim.SaveOptions{})
//
// Begin with [New] and [Optimizer.Step]. A [Group] has a rule and the parameters that it trains, which stay where they are. Parameters,
// gradients, state and copies may have any format that the engine knows: see [pnm.Update]. What trainers do around a step, such as
// clipping, is among the [pnm.Options].
//
// [LossScaler] chooses the loss scale of training in f16. [WarmUp], [CosineDecay] and [StepDecay] are factors on a learning rate.
package optim
