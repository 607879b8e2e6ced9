// Package optim provides an [Optimizer] on top of the engine, package pnm. It keeps the optimizer state of a trainer's tensors, their
// counts of steps and their learning rates, and saves and loads checkpoints of them.
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
// Begin with [New] and [Optimizer.Step]. A [Group] has a rule and the parameters that the rule trains; these stay in the caller's memory.
// Parameters, gradients, state and copies may have any format of the engine: see [pnm.Update]. [pnm.Options] add to a step what trainers
// do around it, such as clipping.
//
// [LossScaler] chooses the loss scale of training in f16. [WarmUp], [CosineDecay] and [StepDecay] are schedules of the learning rate.
// [Optimizer.NoiseScale] and [Optimizer.ReadNoise] measure the gradient noise, which helps to choose the batch size.
// [Optimizer.Fingerprint] tells whether two runs, on any machines, have the same bits.
package optim
