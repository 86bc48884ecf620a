"""Fields of other trainers that mean something else here, or nothing."""

from collections.abc import Mapping

A_SECRET = "no job holds a secret: put it into a Secret, and name that in"
STEPS = "training is counted in steps: set training.steps to epochs x images / images per step"
OF_SHAPE = "convolutions get adapters by training.lora.targetPreset, and"
OF_PROPORTIONS = "training.crop: none keeps the images' proportions, in buckets of its own"

ADVICE: Mapping[str, str] = {
    # Files of other trainers.
    "job": "files of other trainers are not read, and docs/job.md shows how a job is written",
    "config": "files of other trainers are not read, and docs/job.md shows how a job is written",
    "process": "files of other trainers are not read, and docs/job.md shows how a job is written",
    # Model.
    "quantize": "write model.quantization: {denoiser: int8}",
    "fp8base": "write model.quantization: {denoiser: fp8}",
    "quantization.bits": "set model.quantization.denoiser to nf4 for 4 bits, or int8 for 8",
    "quantizete": "set model.quantization.textEncoders",
    "modeltype": "set training.method, as the architecture is read from the model",
    "modelfamily": "the architecture is read from the model, so remove it",
    "vparameterization": "it is that of the model's scheduler, so remove it",
    "zeroterminalsnr": "it is that of the model's scheduler, so remove it",
    "modelpredictiontype": "it is that of the model's scheduler, so remove it",
    "noisescheduler": "it is that of the model, so remove it",
    "lowvram": "set training.gradientCheckpointing, model.quantization or runtime.offload",
    "vae": "a VAE is part of the model, so name a model.source that has it",
    # Subjects.
    "repeats": "set subjects[].weight, a share of the draws in which the number of images has no"
    " part, or training.steps",
    "numrepeats": "set subjects[].weight, a share of the draws in which the number of images has no"
    " part, or training.steps",
    "datasetrepeats": "set training.steps, of which each subject has its share by"
    " subjects[].weight",
    "balancing": "set subjects[].weight, a share of the draws in which the number of images has no"
    " part",
    "instanceprompt": "write its parts as subjects[].identifier and subjects[].classNoun",
    "captionext": "captions of each kind are found beside the images, so remove it",
    "captioncolumn": "captions of each kind are found beside the images, so remove it",
    "captionextension": "captions of each kind are found beside the images, so remove it",
    "maskedloss": "set subjects[].mask to alpha or file",
    "maskedtraining": "set subjects[].mask to alpha or file",
    "maskpath": "put the masks beside the images, and set subjects[].mask to file",
    "subjects.prompt": "write its parts as subjects[].identifier and subjects[].classNoun",
    "isreg": "set prior.images to the folder of class images",
    "diffoutputpreservation": "set prior.target to prediction",
    # Adapters.
    "networkargs": "write each of them as a field of training.lora",
    "lycorisconfig": "write each of them as a field of training.lora",
    "networktrainunetonly": "training.textEncoder.method is frozen by default, so remove it",
    "trainunet": "is trained unless training.method is textual-inversion, so remove it",
    "textencoder.train": "set training.textEncoder.method to lora or full",
    "traintextencoderti": "write subjects[].token: {} for a word that is learned",
    "traintextencoder": "set training.textEncoder.method to lora or full",
    "stoptextencodertraining": "set training.textEncoder.stopFraction, a fraction of the steps",
    "convdim": f"{OF_SHAPE} other ranks by training.lora.rankPattern",
    "lora.conv": f"{OF_SHAPE} other ranks by training.lora.rankPattern",
    "convrank": f"{OF_SHAPE} other ranks by training.lora.rankPattern",
    "convalpha": f"{OF_SHAPE} other alphas by training.lora.alphaPattern",
    "fullmatrix": "set training.lora.rank so high that the larger matrix is trained in full",
    "dorawd": "set training.lora.type to dora",
    "usedora": "set training.lora.type to dora",
    "loradecompose": "set training.lora.type to dora",
    "weightdecompose": "set training.lora.type to dora",
    "userslora": "set training.lora.rslora, with training.lora.alpha",
    # How long, and which images.
    "epoch": STEPS,
    "epochs": STEPS,
    "numepochs": STEPS,
    "maxtrainepochs": STEPS,
    "numtrainepochs": STEPS,
    "saveeverynepochs": "set checkpoints.every, a number of steps",
    "sampleeverynepochs": "set samples.every, a number of steps",
    "validationepochs": "set samples.every, a number of steps",
    "sampleafter": "set samples.every, a number of steps",
    "backupafter": "set checkpoints.every, a number of steps",
    "enablebucket": OF_PROPORTIONS,
    "aspectratiobucketing": OF_PROPORTIONS,
    "bucketresosteps": OF_PROPORTIONS,
    "minbucketreso": OF_PROPORTIONS,
    "maxbucketreso": OF_PROPORTIONS,
    "bucketnoupscale": OF_PROPORTIONS,
    "randomcrop": "set training.crop to random",
    "centercrop": "set training.crop to center",
    "resolutions": "set training.resolution to the highest, and training.lowerResolutions to the"
    " others",
    "keeptokens": "a tag with the identifier keeps its place under training.shuffleTags, so"
    " remove it",
    "keeptagscount": "a tag with the identifier keeps its place under training.shuffleTags,"
    " so remove it",
    # Optimizer.
    "use8bitadam": "set training.optimizer.name to adamw-8bit",
    "betas": "write them as training.optimizer.beta1 and training.optimizer.beta2",
    "optimizerargs": "write each of them as a field of training.optimizer",
    "optimizerparams": "write each of them as a field of training.optimizer",
    "optimizerconfig": "write each of them as a field of training.optimizer",
    "optimizer.momentum": "set training.optimizer.beta1",
    "lrschedulerparams": "write each of them as a field of training.schedule",
    "warmupratio": "set training.schedule.warmupSteps, a number of steps",
    "warmupfraction": "set training.schedule.warmupSteps, a number of steps",
    "lrwarmupratio": "set training.schedule.warmupSteps, a number of steps",
    # Objective.
    "lossweightstrength": "set training.minSnrGamma, if this is the gamma of min-SNR",
    "weightingscheme": "set training.timestepSampling.density, or training.lossWeighting to"
    " sigma-sqrt or cosmap",
    # Precision and memory.
    "fullbf16": "set training.precision to bf16",
    "fullfp16": "set training.precision to bf16, beside which trained weights stay in fp32",
    "bf16": "set training.precision to bf16",
    "fp16": "set training.precision to fp16",
    "loraweightdtype": "trained weights stay in fp32, so remove it",
    "weightdtype": "training.precision is that of the arithmetic, and model.quantization that of"
    " frozen weights, while trained ones stay in fp32",
    "blockswap": "set runtime.offload.fraction, the fraction of the blocks that wait in the host's"
    " memory",
    "blockstoswap": "set runtime.offload.fraction, the fraction of the blocks that wait in the"
    " host's memory",
    "enablegradientcheckpointing": "set training.gradientCheckpointing to true",
    "cachelatents": "latents are cached without being asked, so remove it",
    "cachelatentstodisk": "latents are cached without being asked, so remove it",
    "latentcaching": "latents are cached without being asked, so remove it",
    "cachetextembeddings": "texts are encoded once unless what encodes them is trained, so"
    " remove it",
    "precomputetextembeddings": "texts are encoded once unless what encodes them is trained, so"
    " remove it",
    "cachetextencoderoutputs": "texts are encoded once unless what encodes them is trained, so"
    " remove it",
    "runtime.memory": "write runtime.resources: {limits: {memory: ...}} for the host's memory, and"
    " runtime.gpuMemory for that of a GPU",
    "runtime.cpu": "write runtime.resources: {requests: {cpu: ...}}",
    "runtime.env": "write it in runtime.podOverrides, under the container trainer",
    # Samples and results.
    "evaluation.metrics": "every score is computed, and evaluation.select.scores are those that"
    " the best checkpoint is chosen by",
    "width": "samples and class images are as large as training.resolution, so remove it",
    "height": "samples and class images are as large as training.resolution, so remove it",
    "samplesize": "samples are as large as training.resolution, so remove it",
    "logwith": "set tracking.wandb, tracking.mlflow or tracking.tensorboard",
    "reportto": "set tracking.wandb, tracking.mlflow or tracking.tensorboard",
    "usewandb": "set tracking.wandb",
    "resume": "write resumeFrom with resumeFrom.job or resumeFrom.uri",
    "token": f"{A_SECRET} the secretRef of its section",
    "hftoken": f"{A_SECRET} export.pushToHub.secretRef",
    "hubtoken": f"{A_SECRET} export.pushToHub.secretRef",
    "huggingfacetoken": f"{A_SECRET} export.pushToHub.secretRef",
    "wandbapikey": f"{A_SECRET} tracking.wandb.secretRef",
    "wandb.apikey": f"{A_SECRET} tracking.wandb.secretRef",
    "apikey": f"{A_SECRET} captioning.endpoint.apiKeySecretRef",
    "accesskey": f"{A_SECRET} storage.credentials.secretRef",
    "accesskeyid": f"{A_SECRET} storage.credentials.secretRef",
    "secretkey": f"{A_SECRET} storage.credentials.secretRef",
    "secretaccesskey": f"{A_SECRET} storage.credentials.secretRef",
    "awsaccesskeyid": f"{A_SECRET} storage.credentials.secretRef",
    "awssecretaccesskey": f"{A_SECRET} storage.credentials.secretRef",
}
"""What to do about a name, alone or as `section.name`; fields have their paths below spec."""

NO_COUNTERPART = frozenset(
    {
        *("export.dtype", "prior.negativeprompt", "wandb.runname"),
        *(
            "allowtf32",
            "cachedir",
            "dataloadernumworkers",
            "enablexformersmemoryefficientattention",
        ),
        *("highvram", "imageinterpolationmode", "lowram", "maxdataloadernworkers", "nohalfvae"),
        *("samplebatchsize", "savemodelas", "scalelr", "setgradstonone", "upcastbeforesaving"),
        *("adaptivenoisescale", "amsgrad", "attentionmechanism", "attnmode", "captionprefix"),
        *("coloraug", "compile", "contentorstyle", "dcoef", "debiasedestimationloss"),
        *("decomposeboth", "decouple", "emaupdatestepinterval", "facecropaugrange"),
        *("gradientprecision", "gradientreduceprecision", "huberc", "huberschedule"),
        *("ipnoisegamma", "learningrateminfactor", "losstype", "lrend", "maxtokenlength"),
        *("memeffattn", "minlr", "moduledropout", "multiresnoisediscount"),
        *("multiresnoiseiterations", "normalizemaskedarealoss", "perturbationnoiseweight", "power"),
        *("rankdropout", "relativestep", "resolutiontype", "safeguardwarmup", "saveprecision"),
        *("scaleparameter", "scaleweightnorms", "sdpa", "stochasticrounding", "unloadtextencoder"),
        *("unmaskedprobability", "usebiascorrection", "usetucker", "weightedcaptions", "xformers"),
    }
)
"""Settings that nothing here corresponds to."""
