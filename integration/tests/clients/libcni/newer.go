//go:build libcni_1_2

package main

import (
	"context"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// Since libcni 1.2.
func init() {
	// The container that is named is the only one that lives.
	commands["gc"] = func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (interface{}, error) {
		valid := []types.GCAttachment{{ContainerID: rt.ContainerID, IfName: rt.IfName}}
		return nil, cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
	}
	commands["status"] = func(ctx context.Context, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, _ *libcni.RuntimeConf) (interface{}, error) {
		return nil, cni.GetStatusNetworkList(ctx, list)
	}
}
