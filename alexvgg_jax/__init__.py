"""AlexNet and VGG as pure functions in JAX, and the claims of their papers.

Data flows through these files, from top to bottom:

    data.folder     the images in a folder of classes; data.tfds: in a TFDS set;
                    data.tars: in ILSVRC's tars; data.records writes a TFDS set,
                    and data.manifest lists what was written
    data.decode     decoded pictures; which ones are refused
    data.sources    where images come from: digits, TFDS, folders
    data.batches    the batch of (seed, step), and its way to the devices
    augment         crop, mirror, colour, mean: on the device
    models          build(name) -> a net with init and apply
    loss, optim     cross-entropy and errors; the original program's update rule
    step            gradients, train, eval and predict: pure functions
    ready           a run's net, steps, images and parameters, ready to train or test
    protocols       ways of testing: crops, dense, several nets and scales
    evaluate        the error on a set, and predictions
    start           the parameters that a run starts from
    loop, progress  training from start to end; where a run is

    weights         trained weights of other libraries, in and out
    perceptual      LPIPS, content and style: how different images look to a net
    mistakes        pictures of what a net confuses
    boxes           overlap and merging of bounding boxes
    commands        the larger commands of the command line

What they rest on:

    config, recipes settings of a run; complete runs to start from
    errors, files   one-line errors; files written completely or not at all
    models.layers   the layers; models.operations their arithmetic, models.cpu on CPUs
    models.net      init, apply, Flax module; alexnet, vgg, cifar: the nets
    models.slide    a net over an image of any size
    models.summary  what a net costs; models.parallel: a net split over devices
    sharding, hosts which device holds which array; joining several hosts
    run, checkpoint a run's folder and its checkpoints; log: what a run shows
    memory, ledger  what a step takes of memory, and what it communicates

And what comes out:

    paper           every claim of both papers, with its published figures
    results, page   records of trained nets, statistics and verdicts; the results page

Every claim has a tag: `grep -rn "AlexNet §3.3"` finds its code, test, experiment and
figure. `python -m alexvgg_jax` is the command line.
"""
