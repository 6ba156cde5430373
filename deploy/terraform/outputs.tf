output "namespace" {
  description = "Where the release is."
  value       = helm_release.serverlessllm.namespace
}

output "service" {
  description = "Name of the Service in front, in that namespace."
  value       = strcontains(var.release_name, "serverlessllm") ? var.release_name : "${var.release_name}-serverlessllm"
}
