# Run by `terraform test`: needs no provider and no network.

variables {
  artifacts_url = "s3://models/artifacts"
  pools = {
    cpu = { kind = "StatefulSet", replicas = 2 }
    gpu = { gpus = 8, nvme_path = "/mnt/nvme/sllm", huge_pages = true, memory = "400Gi" }
  }
}

run "pools_become_the_charts_pools" {
  command = plan

  assert {
    condition     = [for pool in yamldecode(output.yaml).agents.pools : pool.name] == ["cpu", "gpu"]
    error_message = "each pool must become one of the chart's"
  }

  assert {
    condition     = yamldecode(output.yaml).agents.pools[1].tolerations[0].key == "nvidia.com/gpu"
    error_message = "pods of a GPU pool must tolerate the GPU taint"
  }

  assert {
    condition     = yamldecode(output.yaml).agents.pools[1].storage.kind == "hostPath" && yamldecode(output.yaml).agents.pools[0].storage.kind == "emptyDir"
    error_message = "nvme_path chooses hostPath"
  }
}

run "etcd_url_chooses_etcd" {
  command = plan

  variables {
    metadata_url = "etcds://a:2379,b:2379"
  }

  assert {
    condition     = yamldecode(output.yaml).metadata.kind == "etcd"
    error_message = "the kind follows from the URL"
  }
}

run "no_pool_is_refused" {
  command = plan

  variables {
    pools = {}
  }

  expect_failures = [var.pools]
}

run "another_scheme_is_refused" {
  command = plan

  variables {
    artifacts_url = "gs://bucket"
  }

  expect_failures = [var.artifacts_url]
}
