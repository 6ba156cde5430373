# Values of the chart out of typed variables. No provider and no resource: it plans, and is tested, anywhere.

locals {
  pools = [
    for name, pool in var.pools : {
      name             = name
      kind             = pool.kind
      replicas         = pool.replicas
      gpus             = pool.gpus
      runtimeClassName = pool.runtime_class
      nodeSelector     = pool.node_selector
      tolerations      = pool.gpus > 0 ? [{ key = pool.gpu_taint, operator = "Exists" }] : []
      arenaBudget      = pool.arena_budget
      shmSize          = pool.shm_size
      stopGraceSeconds = pool.stop_grace_s
      settings         = pool.settings
      resources        = { limits = { memory = pool.memory } }
      storage = pool.nvme_path == "" ? {
        kind     = "emptyDir"
        size     = "${pool.empty_dir_size_gi}Gi"
        hostPath = "/mnt/nvme/serverlessllm"
        } : {
        kind     = "hostPath"
        size     = "${pool.empty_dir_size_gi}Gi"
        hostPath = pool.nvme_path
      }
      privileges = {
        hugePages   = pool.huge_pages
        ownHostPath = pool.nvme_path != "" && pool.own_nvme_path
      }
    }
  ]

  values = {
    orchestrator = {
      replicas = var.orchestrator_replicas
      ingress  = { enabled = length(var.hosts) > 0, hosts = var.hosts }
    }
    agents = { pools = local.pools }
    artifacts = {
      kind = "s3"
      s3 = {
        url            = var.artifacts_url
        region         = var.artifacts_region
        endpoint       = var.artifacts_endpoint
        existingSecret = var.artifacts_secret
      }
    }
    metadata = {
      url            = var.metadata_url
      existingSecret = var.metadata_secret
      kind           = startswith(var.metadata_url, "etcd") ? "etcd" : "redis"
    }
    serviceAccounts = {
      for role, annotations in var.service_account_annotations : role => { annotations = annotations }
    }
    monitoring = {
      serviceMonitor    = { enabled = var.monitoring }
      prometheusRule    = { enabled = var.monitoring }
      grafanaDashboards = { enabled = var.monitoring }
    }
  }
}

output "yaml" {
  description = "Values for `helm --values`, or for the root module's release."
  value       = yamlencode(local.values)
}

output "num_gpus_per_pool" {
  description = "GPUs that one pod of each pool takes."
  value       = { for name, pool in var.pools : name => pool.gpus }
}
