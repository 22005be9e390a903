//! `image seal`, `image abandon`, `image retry`: what people say of images that are made in the fleet.

use std::borrow::Cow;

use crate::model::{Address, ImageWish, Name, image_vm};
use crate::observe::Look;
use crate::plan::{Action, Verb, builds};
use crate::store::{Event, ImageSaid};

use super::super::args::{ImageOne, ImageVerb};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Outcome};
use super::super::fleet::Fleet;

/// `image`
pub(crate) async fn image(context: &Context, verb: &ImageVerb) -> Outcome {
    let (said, one) = match verb {
        ImageVerb::Seal(one) => (ImageSaid::Seal, one),
        ImageVerb::Abandon(one) => (ImageSaid::Abandon, one),
        ImageVerb::Retry(one) => (ImageSaid::Retry, one),
    };
    let fleet = context.load(None)?;
    let image = named(&fleet, one)?;
    let store = context.store(&fleet.desired.fleet.name)?;
    let seen = context.seen(&fleet.desired, "live", Look::default()).await?;
    let resolved = builds::resolved(Cow::Borrowed(&fleet.desired), &seen.observed);
    let made = resolved.images.get(&image).and_then(|image| image.made.as_ref());
    let (Some(made), Some(recipe)) = (made, made.and_then(|m| m.wanted.clone())) else {
        return Err(Failure::new(format!("image/{image} is made from what is still to be made itself"))
            .hint("look at the plan: stablehand plan"));
    };
    let revision = &made.recipe.revision;
    if !made.waits() {
        return Err(Failure::new(format!("image/{image} revision {revision} is sealed already")));
    }
    let wish = ImageWish { recipe, who: context.around.who().into(), at: Context::now() };
    store.image_wish(&image, said, &wish)?;
    let (kind, text) = match said {
        ImageSaid::Seal => ("sealed", "configured by hand, and done: it is captured and sealed"),
        ImageSaid::Abandon => ("abandoned", "given up until its recipe is another one, or until it is tried again"),
        ImageSaid::Retry => ("retried", "to be tried again"),
    };
    let event = Event {
        at: wish.at,
        kind: kind.to_owned(),
        subject: format!("image/{image}"),
        text: format!("revision {revision}: {text}, by {}", wish.who),
    };
    store.log(&event)?;
    context.console.note(&format!("image/{image} revision {revision}: {text}"));
    if said == ImageSaid::Abandon {
        context.console.note("its management instance ends, or reverts, by the next apply");
        return Ok(Exit::Ok);
    }
    let instance = made.recipe.promotes().cloned().or_else(|| image_vm(&image, revision));
    let ours = |a: &Action| match &a.subject {
        Address::Image(name) => a.verb == Verb::Build && *name == image,
        Address::Vm(vm) => Some(vm) == instance.as_ref() && !a.impact.class.is_destructive(),
        _ => false,
    };
    super::apply::after_demand_of(context, &fleet, ours).await
}

fn named(fleet: &Fleet, one: &ImageOne) -> Result<Name, Failure> {
    let text = one.image.strip_prefix("image/").unwrap_or(&one.image);
    let name = Name::new(text).map_err(|e| Failure::caused(format!("`{text}` is not an image"), &e))?;
    match fleet.desired.images.get(&name) {
        Some(image) if image.made.is_some() => Ok(name),
        Some(image) => Err(Failure::new(format!("image/{name} is not made in the fleet ({})", image.origin))
            .hint("say what it is made from: `from: {image: …}` or `from: {vm: …}`")),
        None => Err(super::plan::unknown(&Address::Image(name))),
    }
}
