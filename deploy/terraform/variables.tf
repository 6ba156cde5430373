variable "release_name" {
  description = "Name of the release."
  type        = string
  default     = "serverlessllm"
}

variable "namespace" {
  description = "Where it is installed; made if it is not there."
  type        = string
  default     = "serverlessllm"
}

variable "chart" {
  description = "The chart: a path, or oci://ghcr.io/serverlessllm/charts/serverlessllm. Null takes that of this checkout."
  type        = string
  default     = null
}

variable "chart_version" {
  description = "Version of a chart that comes from a registry."
  type        = string
  default     = null
}

variable "extra_values" {
  description = "Further values in YAML, over those made here."
  type        = list(string)
  default     = []
}

# The rest is handed to modules/values, which checks it.

variable "orchestrator_replicas" {
  description = "Orchestrators in front."
  type        = number
  default     = 2

  validation {
    condition     = var.orchestrator_replicas >= 1
    error_message = "orchestrator_replicas: at least one is needed."
  }
}

variable "pools" {
  description = "Pools of agents by name: one DaemonSet or StatefulSet each, on the nodes that node_selector names."
  type = map(object({
    kind              = optional(string, "DaemonSet")
    replicas          = optional(number, 1)
    gpus              = optional(number, 0)
    node_selector     = optional(map(string), {})
    gpu_taint         = optional(string, "nvidia.com/gpu")
    memory            = optional(string, "24Gi")
    arena_budget      = optional(string, "8GiB")
    shm_size          = optional(string, "10Gi")
    nvme_path         = optional(string, "")
    huge_pages        = optional(bool, false)
    stop_grace_s      = optional(number, 120)
    settings          = optional(any, {})
    runtime_class     = optional(string, "")
    own_nvme_path     = optional(bool, true)
    empty_dir_size_gi = optional(number, 200)
  }))

  validation {
    condition     = length(var.pools) > 0
    error_message = "pools: name at least one, as {cpu = {}}."
  }

  validation {
    condition     = alltrue([for name, pool in var.pools : can(regex("^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", name))])
    error_message = "pools: names are lower-case letters, digits and dashes, at most 20."
  }

  validation {
    condition     = alltrue([for name, pool in var.pools : contains(["DaemonSet", "StatefulSet"], pool.kind)])
    error_message = "pools: kind is DaemonSet or StatefulSet."
  }
}

variable "artifacts_url" {
  description = "Where artifacts lie: s3://bucket/prefix."
  type        = string

  validation {
    condition     = startswith(var.artifacts_url, "s3://")
    error_message = "artifacts_url: write s3://bucket/prefix; other stores speak this protocol too."
  }
}

variable "artifacts_region" {
  description = "Region of the bucket."
  type        = string
  default     = "us-east-1"
}

variable "artifacts_endpoint" {
  description = "Of another S3 server than AWS; empty for AWS."
  type        = string
  default     = ""
}

variable "artifacts_secret" {
  description = "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; empty where the pods' identity is enough."
  type        = string
  default     = ""
}

variable "service_account_annotations" {
  description = "Annotations that bind the pods' ServiceAccounts to identities of the cloud, by role."
  type = object({
    orchestrator = optional(map(string), {})
    ingest       = optional(map(string), {})
    agent        = optional(map(string), {})
  })
  default = {}
}

variable "metadata_url" {
  description = "An external metadata server, redis[s]:// or etcd[s]://; empty runs Redis in the cluster."
  type        = string
  default     = ""
}

variable "metadata_secret" {
  description = "Secret with username and password of the external metadata server."
  type        = string
  default     = ""
}

variable "hosts" {
  description = "Names under which an Ingress serves the API; none makes no Ingress."
  type        = list(string)
  default     = []
}

variable "monitoring" {
  description = "Make ServiceMonitor, rules and dashboards: needs the Prometheus operator's kinds."
  type        = bool
  default     = false
}
