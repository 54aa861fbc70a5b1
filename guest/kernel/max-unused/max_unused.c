// SPDX-License-Identifier: GPL-2.0-only
/*
 * virtiofsd holds a descriptor for each file that the guest remembers, until the guest forgets it, and may have only so
 * many of them: a program that walks a large tree once would leave none, and every open fail with ENFILE, while this
 * kernel, whose memory suffices, saw no reason to forget anything.
 *
 * fuse.max_unused: how many names that nobody uses all mounts of a connection may remember; with more each of them
 * forgets the older half of its own. 0, the default: as many as there is memory for.
 */
#include "fuse_i.h"

#include <linux/list_lru.h>
#include <linux/module.h>

static unsigned int max_unused __read_mostly;
module_param(max_unused, uint, 0644);

static bool may_add_name(u32 opcode)
{
	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_CREATE:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_READDIRPLUS:
		return true;
	default:
		return false;
	}
}

/* Before a request is sent. None of those that add a name is sent while memory is reclaimed. */
void fuse_bound_unused(struct fuse_conn *fc, u32 opcode)
{
	unsigned long unused = 0;
	struct fuse_mount *fm;

	if (!max_unused || !may_add_name(opcode))
		return;
	/* While a mount comes or goes somebody has it: the next request is soon enough. */
	if (!down_read_trylock(&fc->killsb))
		return;
	list_for_each_entry(fm, &fc->mounts, fc_entry)
		if (fm->sb)
			unused += list_lru_count(&fm->sb->s_dentry_lru);
	if (unused > max_unused)
		list_for_each_entry(fm, &fc->mounts, fc_entry)
			if (fm->sb)
				shrink_dcache_sb_by(fm->sb, list_lru_count(&fm->sb->s_dentry_lru) / 2);
	up_read(&fc->killsb);
}
