# The platform in any Kubernetes cluster: the chart's release, its values made by modules/values. The caller configures
# the helm provider; nothing here knows a cloud. examples/ bring cluster, bucket and identity.

module "values" {
  source = "./modules/values"

  orchestrator_replicas       = var.orchestrator_replicas
  pools                       = var.pools
  artifacts_url               = var.artifacts_url
  artifacts_region            = var.artifacts_region
  artifacts_endpoint          = var.artifacts_endpoint
  artifacts_secret            = var.artifacts_secret
  service_account_annotations = var.service_account_annotations
  metadata_url                = var.metadata_url
  metadata_secret             = var.metadata_secret
  hosts                       = var.hosts
  monitoring                  = var.monitoring
}

resource "helm_release" "serverlessllm" {
  name             = var.release_name
  namespace        = var.namespace
  create_namespace = true
  chart            = coalesce(var.chart, "${path.module}/../helm/serverlessllm")
  version          = var.chart_version
  values           = concat([module.values.yaml], var.extra_values)
  wait             = true
  timeout          = 900
}
